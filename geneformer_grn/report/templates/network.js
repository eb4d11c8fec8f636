// The network page: what is chosen, what follows from it, the table. Names reach the page as text, never as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const get = (id) => document.getElementById(id);
const SIGNS = [[1, "activates"], [-1, "represses"], [0, "unknown"]];
const MOST_OF_ONE = 80, ROWS = 300;
const count = (n) => n.toLocaleString("en");
const state = { group: 0, method: 0, compare: -1, share: 1000, signs: new Set([1, -1, 0]), selected: null };
const nodes = new Map();
let drawn = { edges: [], nodes: [] };

function edgesOf(group, method) {
  const found = [];
  for (let i = 0; i < data.weight.length; i++) {
    if (data.group[i] === group && data.method[i] === method && state.signs.has(data.sign[i])) found.push(i);
  }
  return found; // the page was written with the strongest first
}
const pairOf = (i) => `${data.source[i]} ${data.target[i]}`;
// The slider is finer where few edges are shown.
const countOf = (share, most) => Math.min(most, Math.max(1, Math.round(most * (share / 1000) ** 2)));
const shareOf = (wanted, most) => Math.ceil(1000 * Math.sqrt(Math.min(1, wanted / Math.max(most, 1))));

function nodeOf(gene) {
  if (!nodes.has(gene)) nodes.set(gene, { index: gene, label: data.genes[gene] });
  return nodes.get(gene);
}

// Returns the edges to draw: {row, source, target, sign, strength, where}, where: 0 first or only group, 1 second, 2 both.
function chosenEdges() {
  const sides = [edgesOf(state.group, state.method)];
  if (state.compare >= 0) sides.push(edgesOf(state.compare, state.method));
  const n = countOf(state.share, Math.max(...sides.map((side) => side.length), 1));
  const held = sides.map((side) => new Set(side.map(pairOf)));
  const rows = new Map();
  sides.forEach((side, which) => {
    const extra = side.filter((i) => data.source[i] === state.selected || data.target[i] === state.selected);
    for (const i of [...side.slice(0, n), ...extra.slice(0, MOST_OF_ONE)]) {
      const pair = pairOf(i);
      const both = sides.length === 2 && held[1 - which].has(pair);
      if (!rows.has(pair)) rows.set(pair, { row: i, where: both ? 2 : which });
    }
  });
  const list = [...rows.values()].sort((a, b) => Math.abs(data.weight[b.row]) - Math.abs(data.weight[a.row]));
  const sizes = list.map(({ row }) => Math.abs(data.weight[row]));
  const low = sizes.at(-1) ?? 0, span = (sizes[0] ?? 0) - low;
  for (const edge of list) {
    edge.source = nodeOf(data.source[edge.row]);
    edge.target = nodeOf(data.target[edge.row]);
    edge.sign = data.sign[edge.row];
    edge.strength = span > 0 ? (Math.abs(data.weight[edge.row]) - low) / span : 0.5;
  }
  return { list, n, longest: Math.max(...sides.map((side) => side.length)), weakest: data.weight[sides[0][Math.min(n, sides[0].length) - 1]] };
}

function update({ refit = false } = {}) {
  const { list, n, longest, weakest } = chosenEdges();
  const inside = new Set(list.flatMap((edge) => [edge.source, edge.target]));
  for (const node of inside) Object.assign(node, { degree: 0, targets: 0, neighbours: [] });
  for (const { source, target } of list) {
    source.degree += 1; target.degree += 1; source.targets += 1;
    source.neighbours.push(target); target.neighbours.push(source);
  }
  drawn = { edges: list, nodes: [...inside].sort((a, b) => b.targets - a.targets || b.degree - a.degree || a.index - b.index) };
  const least = weakest === undefined ? "" : `, |weight| ≥ ${Math.abs(weakest).toPrecision(3)}`;
  const shownText = `${count(n)} of ${count(longest)}${least}`;
  get("cut").textContent = shownText;
  get("threshold").setAttribute("aria-valuetext", shownText);
  if (state.selected !== null && !inside.has(nodes.get(state.selected))) state.selected = null;
  get("clear").hidden = state.selected === null;
  picture.show(drawn, state, refit);
  writeStatus();
  writeTable();
}

function writeStatus() {
  const { edges, nodes: shown } = drawn;
  let text = `${count(edges.length)} edges among ${count(shown.length)} genes.`;
  if (state.selected !== null) {
    const node = nodes.get(state.selected);
    const targets = edges.filter((edge) => edge.source === node).length;
    const regulators = edges.filter((edge) => edge.target === node).length;
    text = `${node.label}: ${count(targets)} targets and ${count(regulators)} regulators shown. ${text}`;
  } else if (shown.length) {
    const leading = shown.filter((node) => node.targets > 0).slice(0, 3);
    text += ` Most targets: ${leading.map((node) => `${node.label} (${node.targets})`).join(", ")}.`;
  }
  if (state.compare >= 0) {
    const by = [0, 1, 2].map((where) => edges.filter((edge) => edge.where === where).length);
    text += ` ${count(by[0])} only in ${data.groups[state.group]}, ${count(by[1])} only in ${data.groups[state.compare]}, ${count(by[2])} in both lists.`;
  }
  get("status").textContent = text;
  get("canvas").setAttribute("aria-label", `Network. ${text}`);
}

function cell(row, text, kind) {
  const made = row.insertCell();
  if (kind) made.className = kind;
  made.textContent = text;
  return made;
}

function writeTable() {
  const columns = ["Source", "Target", "Effect", "Weight"];
  if (data.support) columns.push("Cells with both");
  if (data.q) columns.push("q");
  if (state.compare >= 0) columns.push("In");
  const head = get("table").tHead.rows[0];
  head.replaceChildren(...columns.map((text) => {
    const made = document.createElement("th");
    made.scope = "col";
    made.textContent = text;
    if (["Weight", "Cells with both", "q"].includes(text)) made.className = "number";
    return made;
  }));
  const rows = state.selected === null ? drawn.edges
    : drawn.edges.filter((edge) => edge.source.index === state.selected || edge.target.index === state.selected);
  const body = document.createElement("tbody");
  for (const edge of rows.slice(0, ROWS)) {
    const line = body.insertRow();
    for (const node of [edge.source, edge.target]) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = node.label;
      button.title = data.ids[node.index];
      button.addEventListener("click", () => select(node.index));
      line.insertCell().append(button);
    }
    cell(line, SIGNS.find(([sign]) => sign === edge.sign)[1]);
    cell(line, String(data.weight[edge.row]), "number");
    if (data.support) cell(line, count(data.support[edge.row]), "number");
    if (data.q) cell(line, data.q[edge.row] === null ? "" : data.q[edge.row].toPrecision(2), "number");
    if (state.compare >= 0) cell(line, [data.groups[state.group], data.groups[state.compare], "both"][edge.where]);
  }
  get("table").tBodies[0].replaceWith(body);
  get("more").textContent = rows.length > ROWS ? `The first ${count(ROWS)} of ${count(rows.length)} edges; the table file holds all.` : "";
}

function select(gene) {
  state.selected = gene;
  update();
  if (gene !== null) picture.centre(nodes.get(gene));
}

function search(text) {
  const wanted = text.trim().toLowerCase();
  if (!wanted) return select(null);
  const names = data.genes.map((name) => name.toLowerCase());
  let found = names.indexOf(wanted);
  if (found < 0) found = data.ids.findIndex((id) => id.toLowerCase() === wanted);
  if (found < 0) found = names.findIndex((name) => name.startsWith(wanted));
  if (found >= 0) select(found);
  if (found < 0 || state.selected !== found) {
    get("status").textContent = `No edge of ${text.trim()} in this group and method.`;
  }
}

function choices(id, names, chosen, key) {
  const list = get(id);
  list.replaceChildren(...names.map(([value, text]) => new Option(text, value)));
  list.value = String(chosen);
  list.addEventListener("change", () => {
    state[key] = Number(list.value);
    if (state.compare === state.group) { state.compare = -1; get("compare").value = "-1"; }
    if (key !== "compare") restart();
    update({ refit: true });
  });
}

// Starts at so many edges as the page was asked for, in each group and method anew.
function restart() {
  state.share = shareOf(data.shown, edgesOf(state.group, state.method).length);
  get("threshold").value = state.share;
}

function build() {
  const numbered = (names) => names.map((name, index) => [index, name]);
  choices("group", numbered(data.groups), 0, "group");
  choices("method", numbered(data.methods), 0, "method");
  choices("compare", [[-1, "no group"], ...numbered(data.groups)], -1, "compare");
  for (const id of ["group", "compare"]) get(id).closest("label").hidden = data.groups.length < 2;
  get("method").closest("label").hidden = data.methods.length < 2;
  get("names").replaceChildren(...data.genes.map((name) => new Option("", name)));
  const known = SIGNS.filter(([sign]) => data.sign.includes(sign));
  get("signs").hidden = known.length < 2;
  for (const [sign, word] of known) {
    const label = document.createElement("label"), box = document.createElement("input");
    Object.assign(box, { type: "checkbox", checked: true });
    box.addEventListener("change", () => { state.signs[box.checked ? "add" : "delete"](sign); update(); });
    label.append(box, word);
    get("signs").append(label);
  }
  get("threshold").max = 1000;
  get("threshold").addEventListener("input", () => { state.share = Number(get("threshold").value); update(); });
  get("search").addEventListener("change", () => search(get("search").value));
  get("controls").addEventListener("submit", (event) => { event.preventDefault(); search(get("search").value); });
  get("clear").addEventListener("click", () => { get("search").value = ""; select(null); picture.fit(); });
  restart();
}

const picture = makePicture(get("canvas"), { select, colours: () => getComputedStyle(document.documentElement) });
build();
update({ refit: true });
