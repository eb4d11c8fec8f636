// The drawn network on a canvas: zoom, pan, names where there is room for them, clicks.
function makePicture(canvas, { select, colours }) {
  const pen = canvas.getContext("2d");
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const view = { x: 0, y: 0, k: 1 };
  let drawn = { edges: [], nodes: [] }, chosen = null, comparing = false, groups = [], layout = null, follow = true, drawing = 0, palette = {};

  function readPalette() {
    const style = colours();
    for (const name of ["ink", "muted", "paper", "positive", "negative", "unsigned", "regulator", "first", "second", "rule"]) {
      palette[name] = style.getPropertyValue(`--${name}`).trim();
    }
  }
  const fontOf = (node) => `${node.targets ? "bold " : ""}${node.targets > 2 ? 14 : 12}px system-ui, "Segoe UI", Arial, "DejaVu Sans", sans-serif`;
  const short = (text) => (text.length > 18 ? `${text.slice(0, 17)}…` : text);
  const toScreen = (node) => [canvas.clientWidth / 2 + (node.x - view.x) * view.k, canvas.clientHeight / 2 + (node.y - view.y) * view.k];

  function lookOf(edge) {
    if (comparing) return [["first", []], ["second", [6, 3]], ["unsigned", []]][edge.where];
    return [edge.sign > 0 ? "positive" : edge.sign < 0 ? "negative" : "unsigned", []];
  }

  // Which names fit: the chosen gene and its neighbours first, then regulators by their targets.
  function placeNames(lit) {
    const taken = [];
    const order = lit ? [...drawn.nodes].sort((a, b) => lit.has(b) - lit.has(a)) : drawn.nodes;
    for (const node of order) {
      const [x, y] = toScreen(node);
      const box = [x - node.width / 2, y - node.height / 2, x + node.width / 2, y + node.height / 2];
      node.named = x > -60 && y > -20 && x < canvas.clientWidth + 60 && y < canvas.clientHeight + 20 &&
        !taken.some((other) => box[0] < other[2] && other[0] < box[2] && box[1] < other[3] && other[1] < box[3]);
      if (node.named) taken.push(box);
    }
  }

  // Where the line from one node to another leaves the first's name, in screen pixels.
  function border(from, to, gap) {
    const [x, y] = toScreen(from), [tx, ty] = toScreen(to);
    const dx = tx - x, dy = ty - y;
    const [w, h] = from.named ? [from.width / 2 + gap, from.height / 2 + gap] : [4 + gap, 4 + gap];
    const reach = Math.max(Math.abs(dx) / w, Math.abs(dy) / h, 1);
    return [x + dx / reach, y + dy / reach];
  }

  // Edges of one look and about one strength are one path: thousands of strokes are slow, dozens are not.
  function drawEdges(edges, faint) {
    const batches = new Map();
    for (const edge of edges) {
      if (edge.source === edge.target) continue;
      const level = Math.round(edge.strength * 4) / 4, [name, dash] = lookOf(edge), key = `${level} ${name}`;
      if (!batches.has(key)) batches.set(key, { level, name, dash, lines: new Path2D(), heads: new Path2D(), bars: new Path2D() });
      addEdge(edge, batches.get(key));
    }
    for (const { level, name, dash, lines, heads, bars } of [...batches.values()].sort((a, b) => a.level - b.level)) {
      pen.globalAlpha = faint ? 0.07 : 0.4 + 0.5 * level;
      pen.strokeStyle = pen.fillStyle = palette[name];
      pen.lineWidth = 0.8 + 1.8 * level;
      pen.setLineDash(dash); pen.stroke(lines);
      pen.setLineDash([]); pen.fill(heads);
      pen.lineWidth = 2; pen.stroke(bars);
    }
  }

  function addEdge(edge, { level, lines, heads, bars }) {
    const [sx, sy] = border(edge.source, edge.target, 0), [tx, ty] = border(edge.target, edge.source, 2);
    const bendX = (sx + tx) / 2 + 0.06 * (ty - sy), bendY = (sy + ty) / 2 - 0.06 * (tx - sx);
    lines.moveTo(sx, sy); lines.quadraticCurveTo(bendX, bendY, tx, ty);
    const angle = Math.atan2(ty - bendY, tx - bendX), size = 5 + 2 * level;
    const at = (side, back) => [tx - back * Math.cos(angle) - side * Math.sin(angle), ty - back * Math.sin(angle) + side * Math.cos(angle)];
    if (edge.sign < 0) { bars.moveTo(...at(-size * 0.8, 0)); bars.lineTo(...at(size * 0.8, 0)); return; }
    heads.moveTo(tx, ty); heads.lineTo(...at(-size * 0.5, size * 1.3)); heads.lineTo(...at(size * 0.5, size * 1.3)); heads.closePath();
  }

  function drawNode(node, faint) {
    const [x, y] = toScreen(node);
    pen.globalAlpha = faint ? 0.18 : 1;
    if (!node.named) {
      pen.fillStyle = node.targets ? palette.regulator : palette.muted;
      pen.beginPath(); pen.arc(x, y, node.targets ? 4 : 2.5, 0, 2 * Math.PI); pen.fill();
      return;
    }
    pen.fillStyle = node.targets ? palette.regulator : palette.paper;
    pen.beginPath(); pen.roundRect(x - node.width / 2, y - node.height / 2, node.width, node.height, 7); pen.fill();
    if (node.index === chosen) { pen.strokeStyle = palette.ink; pen.lineWidth = 2.5; pen.stroke(); }
    pen.font = fontOf(node);
    pen.fillStyle = node.targets ? "#ffffff" : palette.ink;
    pen.fillText(short(node.label), x, y + 0.5);
  }

  function draw() {
    const ratio = devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio);
    }
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.textAlign = "center"; pen.textBaseline = "middle";
    const centre = drawn.nodes.find((node) => node.index === chosen);
    const lit = centre ? new Set([centre, ...centre.neighbours]) : null;
    placeNames(lit);
    const touches = (edge) => !centre || edge.source === centre || edge.target === centre;
    if (centre) drawEdges(drawn.edges.filter((edge) => !touches(edge)), true);
    drawEdges(drawn.edges.filter(touches), false);
    for (const node of [...drawn.nodes].reverse()) if (lit && !lit.has(node)) drawNode(node, true);
    for (const node of [...drawn.nodes].reverse()) if (!lit || lit.has(node)) drawNode(node, false);
    pen.globalAlpha = 1;
    Object.assign(canvas.dataset, {
      edges: drawn.edges.length, genes: drawn.nodes.length, zoom: view.k.toFixed(4), selected: centre?.label ?? "",
      named: drawn.nodes.filter((node) => node.named).length,
    });
  }

  function fit() {
    if (!drawn.nodes.length) return draw();
    const xs = drawn.nodes.map((node) => node.x), ys = drawn.nodes.map((node) => node.y);
    const [left, right] = [Math.min(...xs), Math.max(...xs)], [top, bottom] = [Math.min(...ys), Math.max(...ys)];
    view.k = Math.min((canvas.clientWidth - 110) / Math.max(right - left, 60), (canvas.clientHeight - 60) / Math.max(bottom - top, 40), 2.5);
    view.x = (left + right) / 2; view.y = (top + bottom) / 2;
    draw();
  }

  function tick(running) {
    if (running !== layout) return; // another one has begun
    const until = performance.now() + (still ? 200 : Math.min(60, Math.max(12, drawing)));
    let more = true;
    while (more && performance.now() < until) more = advance(running);
    canvas.dataset.layout = more ? "moving" : "settled";
    const begun = performance.now();
    if (!still || !more) follow ? fit() : draw();
    drawing = performance.now() - begun; // as long again goes into the layout
    if (more) requestAnimationFrame(() => tick(running));
  }

  function zoom(factor, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) {
    const k = Math.min(Math.max(view.k * factor, 0.03), 12);
    view.x += (x - canvas.clientWidth / 2) * (1 / view.k - 1 / k);
    view.y += (y - canvas.clientHeight / 2) * (1 / view.k - 1 / k);
    view.k = k; follow = false;
    draw();
  }

  function move(dx, dy) { view.x -= dx / view.k; view.y -= dy / view.k; follow = false; draw(); }

  function under(event) {
    const box = canvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    return drawn.nodes.find((node) => {
      const [nx, ny] = toScreen(node);
      return node.named ? Math.abs(x - nx) <= node.width / 2 && Math.abs(y - ny) <= node.height / 2 : Math.hypot(x - nx, y - ny) < 7;
    });
  }

  let held = null;
  canvas.addEventListener("pointerdown", (event) => { held = { x: event.clientX, y: event.clientY, moved: 0 }; canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointermove", (event) => {
    if (!held) { canvas.style.cursor = under(event) ? "pointer" : "grab"; return; }
    const dx = event.clientX - held.x, dy = event.clientY - held.y;
    held = { x: event.clientX, y: event.clientY, moved: held.moved + Math.abs(dx) + Math.abs(dy) };
    if (held.moved > 3) move(dx, dy);
  });
  canvas.addEventListener("pointerup", (event) => { if (held && held.moved <= 3) select(under(event)?.index ?? null); held = null; });
  canvas.addEventListener("pointercancel", () => { held = null; });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const box = canvas.getBoundingClientRect();
    zoom(Math.exp(-event.deltaY * 0.0015), event.clientX - box.left, event.clientY - box.top);
  }, { passive: false });
  const KEYS = { ArrowLeft: () => move(50, 0), ArrowRight: () => move(-50, 0), ArrowUp: () => move(0, 50), ArrowDown: () => move(0, -50),
    "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), 0: () => { follow = true; fit(); }, Escape: () => select(null) };
  canvas.addEventListener("keydown", (event) => {
    if (!KEYS[event.key] || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    KEYS[event.key]();
  });
  document.getElementById("nearer").addEventListener("click", () => zoom(1.4));
  document.getElementById("farther").addEventListener("click", () => zoom(1 / 1.4));
  document.getElementById("fit").addEventListener("click", KEYS[0]);
  new ResizeObserver(() => (follow ? fit() : draw())).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readPalette(); writeKey(); draw(); });

  function writeKey() {
    const entries = comparing
      ? [[{ where: 0, sign: 1 }, `only in ${groups[0]}`], [{ where: 1, sign: 1 }, `only in ${groups[1]}`], [{ where: 2, sign: 1 }, "in both lists"]]
      : [[1, "activates"], [-1, "represses"], [0, "effect unknown"]].filter(([sign]) => drawn.edges.some((edge) => edge.sign === sign)).map(([sign, word]) => [{ sign }, word]);
    document.getElementById("key").replaceChildren(...entries.map(([edge, word]) => {
      const item = document.createElement("li"), sample = document.createElement("canvas"), small = sample.getContext("2d");
      const [name, dash] = lookOf(edge);
      Object.assign(sample, { width: 68, height: 28 });
      small.strokeStyle = small.fillStyle = palette[name]; small.lineWidth = 3.5; small.setLineDash(dash);
      small.beginPath(); small.moveTo(2, 14); small.lineTo(52, 14); small.stroke(); small.setLineDash([]); small.beginPath();
      if (edge.sign < 0) { small.moveTo(54, 3); small.lineTo(54, 25); small.stroke(); } else { small.moveTo(66, 14); small.lineTo(48, 6); small.lineTo(48, 22); small.fill(); }
      item.append(sample, word);
      return item;
    }));
  }

  readPalette();
  return {
    show(what, { selected, compare, group }, refit) {
      const known = new Set(drawn.nodes);
      drawn = what; chosen = selected; comparing = compare >= 0; groups = [data.groups[group], data.groups[compare]];
      for (const node of drawn.nodes) {
        pen.font = fontOf(node);
        node.width = pen.measureText(short(node.label)).width + (node.targets ? 14 : 6);
        node.height = node.targets ? 22 : 16;
      }
      if (refit) follow = true;
      writeKey();
      if (layout && drawn.nodes.length === known.size && drawn.nodes.every((node) => known.has(node)) && !refit) return draw();
      layout = startLayout(drawn.nodes, drawn.edges, canvas.clientWidth > canvas.clientHeight);
      canvas.dataset.layout = "moving";
      tick(layout);
    },
    fit() { follow = true; fit(); },
    centre(node) { view.x = node.x; view.y = node.y; view.k = Math.max(view.k, 0.9); follow = false; draw(); },
  };
}
