// What this pack's nodes say while they run is shown by ComfyUI's own text box on the node. The classic editor gives it
// the height of one line, whatever the text: here the box gets the height that its text needs, and the node with it.
// With "Nodes 2.0" boxes fit by themselves.
import { app } from "../../../scripts/app.js";

const OURS = "SenseNovaCore";
const TEXT_BOX = "$$node-text-preview";
const FONT = "12px Inter, sans-serif";
const LINE = 16;
const SIDES = 52; // left and right of the text: the box's distance from the node, and its padding
const ENDS = 36; // above and below, likewise
const MOST = ENDS + 7 * LINE; // a higher box scrolls, and workflows have room for this one

const pen = document.createElement("canvas").getContext("2d");

function linesOf(text, width) {
  pen.font = FONT;
  const plain = text.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&");
  return plain
    .split("\n")
    .map((line) => Math.max(1, Math.ceil(pen.measureText(line.trimEnd()).width / width)))
    .reduce((sum, lines) => sum + lines, 0);
}

function fit(node) {
  const box = node.widgets?.find((widget) => widget.name === TEXT_BOX);
  if (!box) return;
  const needed = ENDS + LINE * linesOf(String(box.value ?? ""), node.size[0] - SIDES);
  box.options.getMinHeight = () => Math.min(needed, MOST);
  const height = node.computeSize()[1];
  if (node.size[1] < height) node.setSize([node.size[0], height]);
  node.setDirtyCanvas(true, true);
}

app.registerExtension({
  name: "sensenova-u1.textOnNodes",
  setup() {
    app.api.addEventListener("progress_text", ({ detail }) => {
      // After the editor has put the text into the box. Within a subgraph the id names all nodes on the way.
      setTimeout(() => {
        if (LiteGraph.vueNodesMode) return;
        const node = app.canvas?.graph?.getNodeById(Number(String(detail.nodeId).split(":").pop()));
        if (node?.type?.startsWith(OURS)) fit(node);
      });
    });
  },
});
