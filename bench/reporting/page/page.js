"use strict";

// Text reaches the document as text nodes only: completions are whatever a model wrote.
function element(tag, { text, className, ...attributes } = {}, children = []) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// --- Tables: a header's button sorts up, then down, then as it was; what has no value stays last. ---

function sortable(table) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => {
    const button = element("button", { type: "button", text: header.textContent });
    header.replaceChildren(button);
    button.addEventListener("click", () => {
      const next = { ascending: "descending", descending: null }[header.getAttribute("aria-sort")];
      const direction = next === undefined ? "ascending" : next;
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      if (direction) header.setAttribute("aria-sort", direction);
      body.append(...(direction ? sorted(original, column, direction === "ascending" ? 1 : -1) : original));
    });
  });
}

function sorted(rows, column, sign) {
  const keyed = rows.map((row) => [row, sortKey(row.cells[column])]);
  keyed.sort(([, a], [, b]) => (a === null ? 1 : 0) - (b === null ? 1 : 0) || sign * compare(a, b));
  return keyed.map(([row]) => row);
}

function sortKey(cell) {
  if (cell.dataset.value !== undefined) return cell.dataset.value === "" ? null : Number(cell.dataset.value);
  return cell.textContent || null;
}

function compare(a, b) {
  if (a === b) return 0;
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), "en", { numeric: true });
}

// --- Samples: columns of numbers that point into lists of texts (see samples.py), filtered whole, drawn in part. ---

const ANY = "";

function browse(data) {
  const at = (id) => document.getElementById(id);
  const list = at("list"), extent = at("extent"), detail = at("detail"), form = at("filters");
  const total = data.text.length;
  let shown = Uint32Array.from({ length: total }, (_, row) => row); // rows that pass the filters, in their order
  let active = 0; // position in `shown`
  let query = "";
  let rowHeight = 0;

  // A filter: a select whose options each stand for some of the codes of a column.
  const correctness = ["not recorded", "wrong", "correct"]; // by the recorded code plus 1
  const each = (names) => names.map((name, code) => [name, [code]]);
  const coded = (names, holds) => names.flatMap((name, code) => (holds(name) ? [code] : []));
  const kinds = [...new Set(data.flips.flat())];
  const filters = [
    ["by-run", data.run, [...data.groups.map(([name, runs]) => [`${name} (${runs.length} runs)`, runs]), ...each(data.runs)]],
    ["by-prompt", data.prompt, each(data.prompts.map(([id, text]) => `${id}: ${cut(text, 60)}`))],
    ["by-policy", data.policy, each(data.policies)],
    ["by-split", data.split, each(data.splits)],
    ["by-correct", data.correct.map((code) => code + 1), each(correctness)],
    ["by-flip", data.flip, kinds.map((kind) => [kind, coded(data.flips, (flips) => flips.includes(kind))])],
    ["by-chosen", data.chosen, [["selected for any", coded(data.chosens, Boolean)], ...each(data.chosens.map((arms) => arms || "not selected"))]],
  ].map(([id, codes, options]) => {
    const used = new Set(codes);
    const select = at(id);
    select.append(element("option", { value: ANY, text: "any" }));
    for (const [text, wanted] of options) {
      if (wanted.some((code) => used.has(code))) select.append(element("option", { value: wanted.join(), text }));
    }
    return { select, codes };
  });

  let lowered = null; // made at the first search
  function matches(wanted) {
    lowered ??= [data.texts.map((text) => text.toLowerCase()), data.prompts.map(([, text]) => text.toLowerCase())];
    const [texts, prompts] = lowered.map((part) => part.map((text) => text.includes(wanted)));
    return (row) => texts[data.text[row]] || prompts[data.prompt[row]];
  }

  function update() {
    query = at("search").value.toLowerCase();
    const tests = query ? [matches(query)] : [];
    for (const { select, codes } of filters) {
      if (select.value === ANY) continue;
      const wanted = new Set(select.value.split(",").map(Number));
      tests.push((row) => wanted.has(codes[row]));
    }
    const found = [];
    for (let row = 0; row < total; row++) if (tests.every((test) => test(row))) found.push(row);
    const [column, way] = at("order").value.split(" ");
    if (way) order(found, data[column], way === "up" ? 1 : -1);
    shown = found;
    active = 0;
    at("count").textContent = `${shown.length.toLocaleString("en")} of ${total.toLocaleString("en")} completions`;
    list.scrollTop = 0;
    draw();
    describe();
  }

  function order(rows, values, sign) {
    rows.sort((a, b) => {
      const x = values[a], y = values[b]; // null: not scored, always last
      return (x === null ? 1 : 0) - (y === null ? 1 : 0) || sign * (x - y) || a - b;
    });
  }

  // Only the rows in sight and a few around them are in the document.
  function draw() {
    rowHeight ||= measured();
    extent.style.height = `${shown.length * rowHeight}px`;
    const first = Math.max(0, Math.floor(list.scrollTop / rowHeight) - 5);
    const last = Math.min(shown.length, Math.ceil((list.scrollTop + list.clientHeight) / rowHeight) + 5);
    const positions = Array.from({ length: last - first }, (_, i) => first + i);
    if (active < shown.length && (active < first || active >= last)) positions.push(active); // the list refers to it
    extent.replaceChildren(...positions.map(option));
    if (shown.length) list.setAttribute("aria-activedescendant", `sample-${active}`);
    else list.removeAttribute("aria-activedescendant");
  }

  function measured() {
    extent.replaceChildren(element("div", { className: "sample" }));
    return extent.firstChild.getBoundingClientRect().height;
  }

  function option(position) {
    const row = shown[position];
    const facts = [
      data.policies[data.policy[row]],
      data.chosens[data.chosen[row]] && `selected for ${data.chosens[data.chosen[row]]}`,
      data.prompts[data.prompt[row]][0],
      `reward ${number(data.reward[row])}`,
      tokens(row),
      data.runs.length > 1 && data.runs[data.run[row]],
    ].filter(Boolean);
    const made = element(
      "div",
      {
        className: "sample",
        role: "option",
        id: `sample-${position}`,
        "aria-selected": position === active,
        "aria-posinset": position + 1,
        "aria-setsize": shown.length,
      },
      [element("div", { className: "facts" }, [...verdict(row), ...facts.flatMap((fact) => [" · ", element("bdi", { text: fact })]).slice(1)]), element("div", { className: "text" }, marked(excerpt(row)))],
    );
    made.style.top = `${position * rowHeight}px`;
    made.dataset.position = position;
    return made;
  }

  function verdict(row) {
    const code = data.correct[row];
    if (code === -1) return [];
    return [element("span", { className: code ? "right" : "wrong", text: code ? "✓ correct" : "✗ wrong" }), " · "];
  }

  function excerpt(row) {
    const text = data.texts[data.text[row]];
    const start = query ? text.toLowerCase().indexOf(query) : -1;
    return (start > 40 ? `…${text.slice(start - 20, start + 300)}` : cut(text, 300)).replace(/\s+/g, " ").trimStart();
  }

  function marked(text) {
    if (!query) return [text];
    const pattern = new RegExp(`(${query.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&")})`, "giu");
    return text.split(pattern).map((part, i) => (i % 2 ? element("mark", { text: part }) : part));
  }

  // The completions to read beside a row: of a held-out prompt those of all policies, of a training prompt the selected.
  const BESIDE = 12;
  const together = new Map(); // run and prompt -> rows
  const promptOf = (row) => `${data.run[row]} ${data.prompt[row]} ${data.split[row]}`;
  for (let row = 0; row < total; row++) {
    if (!together.has(promptOf(row))) together.set(promptOf(row), []);
    together.get(promptOf(row)).push(row);
  }

  const isTraining = (row) => data.splits[data.split[row]] === "train";

  function beside(row) {
    const rows = together.get(promptOf(row));
    return isTraining(row) ? [row, ...rows.filter((other) => other !== row && data.chosens[data.chosen[other]])] : rows;
  }

  function card(row, chosen) {
    const finish = data.finishes[data.finish[row]];
    const training = isTraining(row);
    const facts = [
      `reward ${number(data.reward[row])}`,
      tokens(row),
      `ended by ${{ stop: "end of sequence", length: "the length limit" }[finish] ?? "unknown reason"}`,
      ...(training ? [`selected for ${data.chosens[data.chosen[row]] || "nothing"}`] : []),
    ];
    const current = chosen ? { "aria-current": "true" } : {};
    return element("article", { className: "card", ...current }, [
      element("h4", { text: data.policies[data.policy[row]] + (training ? `, sample ${data.sample[row]}` : "") }),
      element("p", { className: "facts" }, [...verdict(row), element("bdi", { text: facts.join(" · ") })]),
      element("pre", chosen ? { id: "detail-completion" } : {}, marked(data.texts[data.text[row]])),
    ]);
  }

  function describe() {
    if (!shown.length) return detail.replaceChildren(element("p", { text: "No completion passes these filters." }));
    const row = shown[active];
    const [id, prompt, answer] = data.prompts[data.prompt[row]];
    const rows = beside(row);
    const kept = rows.filter((other, i) => i < BESIDE || other === row);
    const left = rows.length - kept.length;
    const facts = [
      ["expected answer", answer],
      ["policies differ", data.flips[data.flip[row]].join("; ")],
      ["prompt", `${id} (${data.splits[data.split[row]]})`],
      ["run", data.runs[data.run[row]]],
    ].filter(([, value]) => value);
    detail.replaceChildren(
      element("h3", { text: "Prompt" }),
      element("pre", { id: "detail-prompt" }, marked(prompt)),
      element("dl", {}, facts.flatMap(([name, value]) => [element("dt", { text: name }), element("dd", { text: value })])),
      element("h3", { text: kept.length > 1 ? "Completions side by side" : "Completion" }),
      element("div", { className: "cards" }, kept.map((other) => card(other, other === row))),
      ...(left ? [element("p", { className: "muted", text: `${left} more of this prompt are in the list.` })] : []),
    );
    detail.scrollTop = 0;
  }

  function choose(position) {
    if (!shown.length) return;
    active = Math.min(Math.max(position, 0), shown.length - 1);
    const top = active * rowHeight;
    if (top < list.scrollTop) list.scrollTop = top;
    else if (top + rowHeight > list.scrollTop + list.clientHeight) list.scrollTop = top + rowHeight - list.clientHeight;
    draw();
    describe();
  }

  const number = (value) => (value === null ? "not scored" : String(Number(value.toPrecision(4))));
  const tokens = (row) => `${data.length[row] ?? "unknown number of"} ${data.length[row] === 1 ? "token" : "tokens"}`;

  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, select, textarea");
    if (event.key !== "/" || typing || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    at("search").focus();
  });
  // A link of a table's row: its runs and its policy, whatever else was filtered before.
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-runs]");
    if (!link) return;
    event.preventDefault();
    form.reset();
    const set = (id, value) => (at(id).value = [...at(id).options].some((option) => option.value === value) ? value : ANY);
    set("by-run", link.dataset.runs);
    set("by-policy", String(data.policies.indexOf(link.dataset.policy)));
    at("browser").scrollIntoView();
    list.focus({ preventScroll: true }); // the form's own event updates the list
  });
  at("browser").addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || ![list, detail].includes(event.target)) return;
    const page = Math.max(1, Math.floor(list.clientHeight / rowHeight) - 1);
    const arrows = { ArrowDown: active + 1, ArrowUp: active - 1, PageDown: active + page, PageUp: active - page, Home: 0, End: shown.length };
    const to = { j: active + 1, k: active - 1, ...(event.target === list ? arrows : {}) }[event.key]; // arrows scroll the other
    if (to === undefined) return;
    event.preventDefault(), choose(to);
  });
  list.addEventListener("click", (event) => {
    const row = event.target.closest(".sample");
    if (row) choose(Number(row.dataset.position));
  });
  list.addEventListener("scroll", () => requestAnimationFrame(draw));
  window.addEventListener("resize", () => {
    rowHeight = 0;
    choose(active);
  });
  form.addEventListener("input", update);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(update)); // the fields are reset after the event
  at("browser").hidden = false;
  update();
}

function cut(text, length) {
  return text.length > length ? `${text.slice(0, length)}…` : text;
}

document.querySelectorAll("table").forEach(sortable);
const samples = JSON.parse(document.getElementById("data").textContent);
if (samples.text.length) browse(samples);
