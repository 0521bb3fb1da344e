// With "Nodes 2.0" the editor goes on showing a node's last live preview above the picture that the node then has: a
// document's page would be there twice. Here the preview goes when the picture has come.
import { app } from "../../../scripts/app.js";

const OURS = "SenseNovaCore";

app.registerExtension({
  name: "sensenova-u1.picturesOnNodes",
  setup() {
    const pinia = document.getElementById("vue-app")?.__vue_app__?.config.globalProperties.$pinia;
    app.api.addEventListener("executed", ({ detail }) => {
      if (!LiteGraph.vueNodesMode || !detail.output?.images?.length) return;
      const node = app.canvas?.graph?.getNodeById(Number(String(detail.display_node ?? detail.node).split(":").pop()));
      if (!node?.type?.startsWith(OURS)) return;
      pinia?._s?.get("nodeOutput")?.revokePreviewsByExecutionId?.(String(detail.display_node ?? detail.node));
    });
  },
});
