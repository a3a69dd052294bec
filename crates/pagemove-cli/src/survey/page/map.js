// Draws the map of the blocks and what is in the one that is chosen, by mouse or keys; filters by owner, state and zone.
// The page is whole without this: it adds the picture.
"use strict";
(() => {
  const at = (id) => document.getElementById(id);
  const data = JSON.parse(at("data").textContent);
  const number = (text) => (text ? parseInt(text, 36) : 0);
  const count = (value) => value.toLocaleString("en");
  const hex = (pfn) => "0x" + pfn.toString(16);
  const FREE = 0, MOVABLE = 1, HOSTAGE = 2, FULL = 3;
  const STATES = ["wholly free", "could be emptied", "hostage", "nothing to gain"];

  // The format is that of `packed` in blocks.rs: groups of blocks that are alike.
  const groups = data.blocks.split(" ").filter(Boolean).map((text) => {
    const [head, runs, holders] = text.split(";");
    const [gap, blocks, zone, state, free, movable, owner] = head.split(",").map(number);
    return { gap, blocks, zone, state, free, movable, owner: owner - 1, runs, holders };
  });
  const total = groups.reduce((sum, group) => sum + group.blocks, 0);
  if (total === 0) return;
  // Beyond that a browser's canvas is blank, or there is no memory for its cells.
  if (total > 8 << 20) {
    at("told").textContent = `${count(total)} blocks are too many for a picture; the tables have all.`;
    at("map").before(at("told"));
    return;
  }
  const groupOf = new Uint32Array(total), pfnOf = new Float64Array(total);
  // The first block of memory has no gap before it but that to the first PFN.
  let filled = 0, pfn = data.first;
  groups.forEach((group, index) => {
    pfn += group.gap * data.frames;
    for (let n = 0; n < group.blocks; n++, filled++, pfn += data.frames) {
      groupOf[filled] = index;
      pfnOf[filled] = pfn;
    }
  });
  const block = (index) => groups[groupOf[index]];

  // The colours of owners: the first ones have their own, the others share one.
  const OWN = ["--c3", "--c2", "--c7", "--c6", "--c5", "--c4", "--c9"];
  const colourName = new Map(data.owners.map((name, place) => [name, OWN[place] ?? "--c8"]));
  let colours = {};
  const readColours = () => {
    const style = getComputedStyle(document.documentElement);
    colours = {};
    for (const name of [...OWN, "--c0", "--c1", "--c8", "--ink", "--paper", "--muted", "--rule"]) colours[name] = style.getPropertyValue(name).trim();
  };
  const ofName = (name) => {
    if (name === 0) return [colours["--c0"], 1];
    if (!data.stays[name]) return [colours["--c1"], 0.75];
    return [colours[colourName.get(name) ?? "--c8"], 1];
  };
  const look = (group) => {
    const used = 1 - group.free / data.frames;
    if (group.state === FREE) return [colours["--c0"], 1];
    if (group.state === MOVABLE) return [colours["--c1"], 0.25 + 0.6 * used];
    if (group.state === FULL) return [colours["--muted"], 0.95];
    return [colours[colourName.get(group.owner) ?? "--c8"], 0.55 + 0.45 * used];
  };

  // What the filter lets through.
  const filter = { owner: -1, state: -1, zone: -1 };
  const holds = (group, owner) => group.owner === owner || (group.runs || group.holders || "").split(",").some((run) => run !== "" && number(run.split(".")[0]) === owner);
  let passes = new Uint8Array(groups.length).fill(1);
  const applyFilter = () => {
    let blocks = 0;
    groups.forEach((group, index) => {
      const pass = (filter.state < 0 || group.state === filter.state) && (filter.zone < 0 || group.zone === filter.zone) &&
        (filter.owner < 0 || (group.state === HOSTAGE && holds(group, filter.owner)));
      passes[index] = pass ? 1 : 0;
      if (pass) blocks += group.blocks;
    });
    at("shown").textContent = blocks === total ? `${count(total)} blocks` : `${count(blocks)} of ${count(total)} blocks`;
  };

  // A grid of blocks on a canvas.
  const grids = {};
  const sized = (canvas, columns, rows, cell) => {
    const scale = window.devicePixelRatio || 1;
    canvas.width = columns * cell * scale;
    canvas.height = rows * cell * scale;
    canvas.style.width = `${columns * cell}px`;
    canvas.style.height = `${rows * cell}px`;
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    return { canvas, pen, cell, columns };
  };
  // As large as fits in the page's width and a height.
  const layOut = (canvas, blocks, height, largest) => {
    const width = at("map").clientWidth;
    const cell = Math.max(1, Math.min(largest, Math.floor(Math.sqrt((width * height) / blocks))));
    const most = Math.floor(width / cell);
    const columns = Math.max(1, Math.min(blocks, most >= 64 ? most - (most % 16) : most));
    return sized(canvas, columns, Math.ceil(blocks / columns), cell);
  };
  const paint = (grid, place, [colour, alpha], dim) => {
    const { pen, cell, columns } = grid;
    const gap = cell >= 5 ? 1 : 0;
    pen.globalAlpha = dim ? alpha * 0.13 : alpha;
    pen.fillStyle = colour;
    pen.fillRect((place % columns) * cell, Math.floor(place / columns) * cell, cell - gap, cell - gap);
  };
  const mark = (grid, place) => {
    const { pen, cell, columns } = grid;
    const size = Math.max(cell, 6);
    const middle = (value) => value * cell + cell / 2 - size / 2;
    pen.globalAlpha = 1;
    for (const [colour, width] of [[colours["--paper"], 4], [colours["--ink"], 2]]) {
      pen.strokeStyle = colour;
      pen.lineWidth = width;
      pen.strokeRect(middle(place % columns) - 1, middle(Math.floor(place / columns)) - 1, size + 1, size + 1);
    }
  };

  // The map of all blocks; where its cells are small, a second one of the neighbourhood of the chosen block.
  const NEAR = 1024;
  let chosen = 0, nearFrom = 0, picture = null, kept = false;
  const drawAll = () => {
    readColours();
    const grid = (grids.all = layOut(at("all"), total, 420, 14));
    for (let index = 0; index < total; index++) paint(grid, index, look(block(index)), !passes[groupOf[index]]);
    // Kept, since a million cells take long and the mark moves with each key.
    picture = document.createElement("canvas");
    picture.width = grid.canvas.width;
    picture.height = grid.canvas.height;
    picture.getContext("2d").drawImage(grid.canvas, 0, 0);
    drawMark();
    drawLegend();
  };
  const drawMark = () => {
    const grid = grids.all;
    grid.pen.globalAlpha = 1;
    grid.pen.save();
    grid.pen.setTransform(1, 0, 0, 1, 0, 0);
    grid.pen.clearRect(0, 0, grid.canvas.width, grid.canvas.height);
    grid.pen.drawImage(picture, 0, 0);
    grid.pen.restore();
    if (!at("block").hidden) mark(grid, chosen);
    const near = at("near");
    near.hidden = grid.cell >= 6 || at("block").hidden;
    if (near.hidden) return;
    const blocks = Math.min(NEAR, total);
    nearFrom = Math.max(0, Math.min(total - blocks, Math.floor(chosen / 256) * 256 - 384));
    grids.near = layOut(near, blocks, 300, 12);
    for (let n = 0; n < blocks; n++) paint(grids.near, n, look(block(nearFrom + n)), !passes[groupOf[nearFrom + n]]);
    mark(grids.near, chosen - nearFrom);
  };
  const drawLegend = () => {
    const seen = new Set(groups.map((group) => (group.state === HOSTAGE ? `h${group.owner}` : group.state)));
    const entries = [];
    if (seen.has(FREE)) entries.push([look({ state: FREE, free: data.frames }), STATES[FREE]]);
    if (seen.has(MOVABLE)) entries.push([look({ state: MOVABLE, free: data.frames / 2 }), "could be emptied, the stronger the fuller"]);
    data.owners.slice(0, OWN.length).filter((name) => seen.has(`h${name}`)).forEach((name) => entries.push([ofName(name), `held by ${data.names[name]}`]));
    const others = [...seen].some((key) => typeof key === "string" && !data.owners.slice(0, OWN.length).includes(Number(key.slice(1))));
    if (others) entries.push([[colours["--c8"], 1], "held by others"]);
    if (seen.has(FULL)) entries.push([look({ state: FULL, free: 0 }), STATES[FULL]]);
    at("legend").replaceChildren(...entries.map(([[colour, alpha], text]) => {
      const item = document.createElement("li"), swatch = document.createElement("i");
      swatch.style.background = colour;
      swatch.style.opacity = alpha;
      item.append(swatch, text);
      return item;
    }));
  };

  // The chosen block: its frames, and a table of the same.
  const drawBlock = () => {
    const group = block(chosen), [zone, node] = data.zones[group.zone];
    const start = pfnOf[chosen];
    const stay = data.frames - group.free - group.movable;
    at("told").textContent = `PFN ${hex(start)} to ${hex(start + data.frames - 1)}, ${zone}, node ${node}: ${STATES[group.state]}. ` +
      `${count(group.free)} frames free, ${count(group.movable)} movable, ${count(stay)} stay.`;
    at("block").hidden = false;
    const runs = group.runs ? group.runs.split(",").map((run) => run.split(".")).map(([name, frames]) => [number(name), frames ? number(frames) : 1]) : [];
    const columns = Math.min(data.frames, 32);
    const grid = sized(at("frames"), columns, Math.ceil(data.frames / columns), 12);
    let place = 0;
    const table = [];
    for (const [name, frames] of runs) {
      const row = document.createElement("tr");
      for (const text of [hex(start + place), count(frames), data.names[name], data.stays[name] ? "stays" : ""]) {
        row.appendChild(document.createElement("td")).textContent = text;
      }
      table.push(row);
      for (let n = 0; n < frames; n++, place++) paint(grid, place, ofName(name), false);
    }
    grid.canvas.hidden = runs.length === 0;
    at("runs").replaceChildren(...table);
  };
  const choose = (index) => {
    chosen = Math.max(0, Math.min(total - 1, index));
    drawBlock();
    drawMark();
  };
  const step = (direction) => {
    for (let index = chosen + direction; index >= 0 && index < total; index += direction) {
      if (passes[groupOf[index]]) return choose(index);
    }
  };

  // By mouse and finger.
  const under = (grid, event) => {
    const box = grid.canvas.getBoundingClientRect();
    const x = Math.floor((event.clientX - box.left) / grid.cell), y = Math.floor((event.clientY - box.top) / grid.cell);
    return x < 0 || x >= grid.columns || y < 0 ? -1 : y * grid.columns + x;
  };
  const point = (name, from, blocks) => (event) => {
    // A click keeps the block: moving on over the map doesn't choose another one until the next click.
    if (event.type === "pointerdown") {
      if (event.button !== 0) return;
      kept = name === "near" || !kept || event.pointerType !== "mouse";
    } else if (kept || event.pointerType !== "mouse") return;
    const place = under(grids[name], event);
    if (place >= 0 && place < blocks()) choose(from() + place);
  };
  for (const kind of ["pointermove", "pointerdown"]) {
    at("all").addEventListener(kind, point("all", () => 0, () => total));
  }
  at("near").addEventListener("pointerdown", point("near", () => nearFrom, () => Math.min(NEAR, total)));
  // By keys.
  at("all").addEventListener("keydown", (event) => {
    const { columns } = grids.all;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, PageUp: -10 * columns, PageDown: 10 * columns };
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    // At the border one stays in the column.
    if (event.key in steps) {
      const to = chosen + steps[event.key];
      if (to >= 0 && to < total) choose(to);
    }
    else if (event.key === "Home") choose(0);
    else if (event.key === "End") choose(total - 1);
    else if (event.key === "n" || event.key === "N") step(1);
    else if (event.key === "p" || event.key === "P") step(-1);
    else return;
    kept = true;
    event.preventDefault();
  });

  // The filter.
  const select = at("owner");
  data.owners.forEach((name, place) => select.add(new Option(data.names[name], place)));
  const rows = [...document.querySelectorAll("button.js")];
  const changed = () => {
    const value = (id) => { const field = at(id); return field && field.value !== "" ? Number(field.value) : -1; };
    const place = value("owner");
    filter.owner = place < 0 ? -1 : data.owners[place];
    filter.state = value("state");
    filter.zone = value("zone");
    rows.forEach((button) => button.closest("tr").classList.toggle("chosen", Number(button.dataset.owner) === place));
    applyFilter();
    drawAll();
  };
  for (const id of ["owner", "state", "zone"]) at(id)?.addEventListener("change", changed);
  rows.forEach((button) => {
    button.hidden = false;
    button.nextElementSibling.hidden = true;
    button.addEventListener("click", () => {
      select.value = select.value === button.dataset.owner ? "" : button.dataset.owner;
      changed();
      at("map").scrollIntoView({ block: "nearest" });
    });
  });
  const goTo = () => {
    const text = at("pfn").value.trim();
    const wanted = /^(0x[0-9a-f]+|[0-9]+)$/i.test(text) ? Number(text) : NaN;
    const start = wanted - (wanted % data.frames);
    const index = pfnOf.findIndex((pfn) => pfn === start);
    at("pfn").setCustomValidity(text === "" || index >= 0 ? "" : "No block of this map has that PFN.");
    if (text !== "" && index >= 0) {
      kept = true;
      choose(index);
    }
  };
  at("pfn").addEventListener("change", goTo);
  at("filter").addEventListener("submit", (event) => {
    event.preventDefault();
    goTo();
    at("pfn").reportValidity();
  });

  at("map").hidden = false;
  // A browser may have kept what was chosen before the page was loaded anew.
  changed();
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { drawAll(); if (!at("block").hidden) drawBlock(); });
  let width = at("map").clientWidth;
  window.addEventListener("resize", () => {
    if (at("map").clientWidth === width) return;
    width = at("map").clientWidth;
    drawAll();
  });
})();
