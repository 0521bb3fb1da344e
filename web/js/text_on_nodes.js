// What this pack's nodes say while they run is shown by ComfyUI's own text box on the node. The classic editor gives it
// the height of one line, whatever the text: here the box gets the height that its text needs, and the node with it.
// With "Nodes 2.0" boxes fit by themselves.
import { app } from "../../../scripts/app.js";

const OURS = "SenseNovaCore";
const TEXT_BOX = "$$node-text-preview";
const FONT = "12px Inter, sans-serif";
const LINE = 16;
const SIDES = 52; // left and right of the text: the box's distance from the node, and its padding
const ENDS = 40; // above and below, likewise
const MOST_LINES = 7; // a higher box scrolls, and workflows have room for this one
const MORE_LINES = { SenseNovaCoreMemoryPlan: 10 }; // the most that the editor's own style allows

const pen = document.createElement("canvas").getContext("2d");

const plainOf = (text) => text.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&");

function linesOf(text, width) {
  pen.font = FONT;
  const room = (words) => pen.measureText(words).width <= width;
  let lines = 0;
  for (const paragraph of text.split("\n")) {
    let line = "";
    lines += 1;
    for (const word of paragraph.trimEnd().split(" ")) {
      const longer = line ? `${line} ${word}` : word;
      if (line && !room(longer)) lines += 1;
      line = !line || room(longer) ? longer : word;
      if (line === word) lines += Math.ceil(pen.measureText(word).width / width || 1) - 1;
    }
  }
  return lines;
}

// The editor breaks lines within words, of every text box that it draws: of ours it shall between them.
function breakBetweenWords(text) {
  const bare = (words) => words.replace(/\s/g, "");
  for (const element of document.querySelectorAll(".dom-widget .break-all")) {
    if (bare(element.textContent) !== bare(text)) continue;
    element.style.wordBreak = "normal";
    element.style.overflowWrap = "anywhere";
  }
}

// Of this pack, or fed by a node of it, as KSampler is by To ComfyUI.
function isOurs(node) {
  const nodes = [node, ...(node.inputs ?? []).map((_, slot) => node.getInputNode(slot))];
  return nodes.some((one) => one?.type?.startsWith(OURS));
}

function fit(node) {
  const box = node.widgets?.find((widget) => widget.name === TEXT_BOX);
  if (!box) return;
  const text = plainOf(String(box.value ?? ""));
  const needed = ENDS + LINE * linesOf(text, node.size[0] - SIDES);
  const most = ENDS + LINE * (MORE_LINES[node.type] ?? MOST_LINES);
  box.options.getMinHeight = () => Math.min(needed, most);
  const height = node.computeSize()[1];
  if (node.size[1] < height) node.setSize([node.size[0], height]);
  node.setDirtyCanvas(true, true);
  requestAnimationFrame(() => requestAnimationFrame(() => breakBetweenWords(text))); // once the editor has drawn it
}

app.registerExtension({
  name: "sensenova-u1.textOnNodes",
  setup() {
    app.api.addEventListener("progress_text", ({ detail }) => {
      // After the editor has put the text into the box. Within a subgraph the id names all nodes on the way.
      setTimeout(() => {
        if (LiteGraph.vueNodesMode) return;
        const node = app.canvas?.graph?.getNodeById(Number(String(detail.nodeId).split(":").pop()));
        if (node && isOurs(node)) fit(node);
      });
    });
  },
});
