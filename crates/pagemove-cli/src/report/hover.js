// Over a cell: names the block and counts its frames before and after, and marks the same block in both pictures.
// The page is whole without this; it adds only what has no room on it.
"use strict";
(() => {
  const tip = document.getElementById("tip");
  if (!tip) return;
  const classes = tip.dataset.classes.split("|");
  // The format is that of `packed` in blocks.rs.
  const unpack = (text) => text.split(" ").filter(Boolean).flatMap((run) => {
    const [counts, times] = run.split("*").reverse();
    return Array(Number(times ?? 1)).fill(counts.split(",").map(Number));
  });
  const row = (cells) => {
    const tr = document.createElement("tr");
    for (const text of cells) tr.appendChild(document.createElement("td")).textContent = text;
    return tr;
  };

  for (const pair of document.querySelectorAll(".pair")) {
    const columns = Number(pair.dataset.columns);
    const fixed = pair.dataset.fixed.split(" ").filter(Boolean).map(Number);
    const pictures = [...pair.querySelectorAll("svg.blocks")];
    let before, after;

    const hide = () => {
      tip.hidden = true;
      pair.classList.remove("hovered");
    };
    const show = (event) => {
      before ??= unpack(pair.dataset.before);
      after ??= unpack(pair.dataset.after);
      const box = event.currentTarget.getBoundingClientRect();
      const side = box.width / columns;
      const x = Math.floor((event.clientX - box.left) / side);
      const y = Math.floor((event.clientY - box.top) / side);
      const block = y * columns + x;
      if (x < 0 || x >= columns || y < 0 || block >= Math.max(before.length, after.length)) return hide();

      const head = document.createElement("b");
      head.textContent = `Block ${block.toLocaleString("en")}`;
      const table = document.createElement("table");
      table.append(row(["frames", "before", "after", ""]));
      classes.forEach((name, at) => {
        const was = before[block]?.[at] || 0;
        const is = after[block]?.[at] || 0;
        if (was || is) table.append(row([name, was, is, fixed.includes(at) ? "can’t move" : ""]));
      });
      tip.replaceChildren(head, table);
      tip.hidden = false;
      const left = event.clientX + 14 + tip.offsetWidth > innerWidth ? event.clientX - 14 - tip.offsetWidth : event.clientX + 14;
      const top = event.clientY + 14 + tip.offsetHeight > innerHeight ? event.clientY - 14 - tip.offsetHeight : event.clientY + 14;
      tip.style.left = `${Math.max(4, left)}px`;
      tip.style.top = `${Math.max(4, top)}px`;
      pair.classList.add("hovered");
      for (const picture of pictures) {
        const mark = picture.querySelector(".here");
        mark.setAttribute("x", x);
        mark.setAttribute("y", y);
      }
    };
    for (const picture of pictures) {
      picture.addEventListener("pointermove", show);
      picture.addEventListener("pointerdown", show);
      picture.addEventListener("pointerleave", hide);
    }
  }
})();
