// A menu that shows further widgets, such as decoding, gives its node the least height whenever it is set, which the
// classic editor does for each node of a workflow that is opened: its text boxes would come back as tall as two lines,
// whatever height was saved. Here nodes of this pack get back the height that they were saved with.
import { app } from "../../../scripts/app.js";

const OURS = "SenseNovaCore";

app.registerExtension({
  name: "sensenova-u1.sizesOfNodes",
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!nodeData.name.startsWith(OURS)) return;
    const before = nodeType.prototype.onConfigure;
    nodeType.prototype.onConfigure = function (saved, ...more) {
      before?.call(this, saved, ...more);
      const height = saved.size?.[1] ?? saved.size?.["1"];
      if (height > this.size[1]) this.setSize([this.size[0], height]);
    };
  },
});
