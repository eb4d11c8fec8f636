// Where genes are drawn: springs along edges, repulsion between near genes, then names pushed apart.
// Genes keep their places when edges come or go, and every start is the same, so that the picture is stable.
function startLayout(nodes, links, wide) {
  const RANGE = nodes.length > 800 ? 110 : 170, SPRING = 62, GOLDEN = Math.PI * (3 - Math.sqrt(5));
  const placed = nodes.filter((node) => node.x !== undefined).length;
  nodes.forEach((node, index) => {
    if (node.x !== undefined) return;
    const known = (node.neighbours ?? []).find((other) => other.x !== undefined);
    const radius = known ? 30 : 34 * Math.sqrt(index + 0.5);
    node.x = (known ? known.x : 0) + radius * Math.cos(index * GOLDEN);
    node.y = (known ? known.y : 0) + radius * Math.sin(index * GOLDEN);
  });
  const steps = nodes.length > 800 ? 120 : 320;
  // Where most genes have their places already, they only make room for the others.
  return { nodes, links, wide, RANGE, SPRING, steps, step: placed > nodes.length / 2 ? Math.round(steps * 0.55) : 0 };
}

function cellsOf(nodes, side) {
  const cells = new Map();
  for (const node of nodes) {
    const key = Math.floor(node.x / side) * 65536 + Math.floor(node.y / side);
    if (!cells.has(key)) cells.set(key, []);
    cells.get(key).push(node);
  }
  return cells;
}

// Calls visit(a, b) once for every pair of nodes in the same or neighbouring cells.
function nearPairs(nodes, side, visit) {
  const cells = cellsOf(nodes, side);
  for (const [key, members] of cells) {
    members.forEach((a, i) => { for (let j = i + 1; j < members.length; j++) visit(a, members[j]); });
    for (const step of [1, 65535, 65536, 65537]) {
      for (const b of cells.get(key + step) ?? []) for (const a of members) visit(a, b);
    }
  }
}

// One step; returns false when the layout has settled.
function advance(layout) {
  const { nodes, links, wide, RANGE, SPRING } = layout;
  const heat = 1 - layout.step / layout.steps;
  if (heat <= 0) return false;
  const [towardsX, towardsY] = wide ? [0.008, 0.017] : [0.017, 0.008];
  for (const node of nodes) { node.fx = -towardsX * node.x; node.fy = -towardsY * node.y; }
  nearPairs(nodes, RANGE, (a, b) => {
    let dx = a.x - b.x, dy = a.y - b.y, far = Math.hypot(dx, dy);
    if (far > RANGE) return;
    if (far < 0.01) { dx = 0.1; dy = 0.1 * (a.index < b.index ? 1 : -1); far = 0.14; }
    const push = (1500 / Math.max(far, 8)) * (1 - far / RANGE) / far;
    a.fx += push * dx; a.fy += push * dy; b.fx -= push * dx; b.fy -= push * dy;
  });
  for (const { source: a, target: b } of links) {
    if (a === b) continue;
    const dx = b.x - a.x, dy = b.y - a.y, far = Math.max(Math.hypot(dx, dy), 0.01);
    const length = SPRING + 3 * Math.sqrt(Math.min(a.degree, b.degree) * 20);
    const pull = 0.16 * (far - length) / far / Math.sqrt(Math.min(a.degree, b.degree));
    a.fx += pull * dx; a.fy += pull * dy; b.fx -= pull * dx; b.fy -= pull * dy;
  }
  const most = 4 + 26 * heat;
  for (const node of nodes) {
    const far = Math.hypot(node.fx, node.fy), kept = far > most ? most / far : 1;
    node.x += kept * node.fx * 0.7; node.y += kept * node.fy * 0.7;
  }
  if (heat < 0.35) separateNames(nodes);
  layout.step += 1;
  return true;
}

function separateNames(nodes) {
  nearPairs(nodes, 90, (a, b) => {
    const dx = a.x - b.x, dy = a.y - b.y;
    const overX = (a.width + b.width) / 2 + 8 - Math.abs(dx), overY = (a.height + b.height) / 2 + 6 - Math.abs(dy);
    if (overX <= 0 || overY <= 0) return;
    if (overY <= overX) {
      const push = (overY / 2) * (dy > 0 || (dy === 0 && a.index > b.index) ? 1 : -1);
      a.y += push; b.y -= push;
    } else {
      const push = (overX / 2) * (dx > 0 ? 1 : -1);
      a.x += push; b.x -= push;
    }
  });
}
