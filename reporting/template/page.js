"use strict";
// The page at work: charts in the theme's colors, questions and answers that can be searched, texts to copy.
// Contract: texts come from the JSON in this document and are written as text nodes, never as markup.
(() => {
  const QUESTIONS_AT_ONCE = 12, BELIEFS_AT_ONCE = 20;

  const json = (element) => JSON.parse(element.textContent);
  const percent = (share) => `${Math.round(100 * share)}%`;

  function make(tag, className, text) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  }

  function swatch(color, className = "swatch") {
    const element = make("i", className);
    element.style.background = color;
    return element;
  }

  // --- theme and charts ---------------------------------------------------------------------------------

  const root = document.documentElement;

  function isDark() {
    return root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  }

  function color(name) {
    return getComputedStyle(root).getPropertyValue(name).trim();
  }

  function paint(plot) {
    const ink = color("--muted"), line = color("--line");
    for (const part of [...plot.below, ...plot.left]) {
      part.setv({ axis_label_text_color: ink, major_label_text_color: ink, axis_line_color: line,
        major_tick_line_color: line, minor_tick_line_color: null, axis_label_text_font_style: "normal",
        axis_label_text_font_size: "12px", major_label_text_font_size: "12px" });
    }
    for (const grid of plot.center) grid.setv({ grid_line_color: line });
  }

  function dragToZoom(plot) {  // with a finger, dragging scrolls the page
    plot.toolbar.tools.find((tool) => tool.type === "BoxZoomTool").active = true;
  }

  const plots = [];

  async function draw() {
    for (const data of document.querySelectorAll(".plot-data")) {
      const views = await Bokeh.embed.embed_item(json(data), data.dataset.target);
      for (const { model } of views.roots) {
        if (model.type !== "Figure") continue;  // a document has other roots of Bokeh's own
        plots.push(model);
        paint(model);
        if (matchMedia("(pointer: fine)").matches) dragToZoom(model);
      }
    }
    root.dataset.drawn = plots.length;
  }

  function repaint() {
    plots.forEach(paint);
  }

  document.getElementById("theme").addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    repaint();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);

  // --- lists that are filtered and shown some at a time ---------------------------------------------------

  function list(section, atOnce, found, show) {
    // found(form) -> items; show(item) -> element
    const form = section.querySelector("form"), box = section.querySelector(`.${form.dataset.for}`);
    const more = section.querySelector(".more");
    let items = [], shown = 0;
    function add() {
      for (const item of items.slice(shown, shown + atOnce)) box.append(show(item));
      shown = Math.min(items.length, shown + atOnce);
      more.hidden = shown >= items.length;
      more.textContent = `show more (${items.length - shown})`;
    }
    function again() {
      items = found(form.elements);
      shown = 0;
      box.replaceChildren();
      add();
      if (!items.length) box.append(make("p", "muted", "Nothing fits."));
    }
    form.addEventListener("input", again);
    more.addEventListener("click", add);
    again();
  }

  function options(select, names) {
    for (const [value, text] of names) {
      const option = make("option", "", text);
      option.value = value;
      select.append(option);
    }
  }

  const holds = (text, wanted) => text.toLowerCase().includes(wanted.trim().toLowerCase());

  // --- questions ------------------------------------------------------------------------------------------

  function questions(section, data) {
    const named = data.checkpoints.filter(({ name }) => data.questions.some((q) => name in q.gaps));
    const form = section.querySelector("form").elements;
    options(form.of, named.map(({ name }) => [name, `gap of ${name}`]));
    form.of.selectedIndex = named.length - 1;
    const legend = section.querySelector(".legend");
    for (const { name, color } of [{ name: "the group", color: "var(--group)" }, ...named]) {
      const entry = make("span");
      entry.append(swatch(color, name === "the group" ? "swatch block" : "swatch"), name);
      legend.append(entry);
    }
    const gap = (question, name) => question.gaps[name] ?? -1;
    function found({ text, of, order }) {
      const fits = (q) => [data.prompts[q.prompt], ...q.options].some((words) => holds(words, text.value));
      const items = data.questions.filter(fits);
      if (order.value === "file") return items;
      const sign = order.value === "up" ? 1 : -1;
      return items.sort((a, b) => sign * (gap(a, of.value) - gap(b, of.value)));
    }
    list(section, QUESTIONS_AT_ONCE, found, (question) => questionCard(question, data, named));
  }

  function questionCard(question, data, named) {
    const card = make("div", "question");
    const gaps = make("p", "gaps");
    for (const { name, color } of named.filter(({ name }) => name in question.gaps)) {
      const entry = make("span");
      const sampled = question.sampled.includes(name) ? " (sampled)" : "";
      entry.append(swatch(color), `${name} ${question.gaps[name].toFixed(3)}${sampled}`);
      gaps.append(entry);
    }
    card.append(make("h4", "", data.prompts[question.prompt]), gaps);
    question.options.forEach((words, k) => card.append(optionRow(question, words, k, named)));
    return card;
  }

  function optionRow(question, words, k, named) {
    const row = make("div", "option"), track = make("div", "track"), bar = make("div", "of-group");
    bar.style.width = `${100 * question.group[k]}%`;
    track.append(bar);
    const said = [`group ${percent(question.group[k])}`];
    for (const { name, color } of named.filter(({ name }) => name in question.models)) {
      const dot = swatch(color, "dot");
      dot.style.left = `${100 * question.models[name][k]}%`;
      track.append(dot);
      said.push(`${name} ${percent(question.models[name][k])}`);
    }
    track.title = said.join("\n");
    track.setAttribute("role", "img");
    track.setAttribute("aria-label", said.join(", "));
    row.append(make("span", "words", words), track, make("span", "share", percent(question.group[k])));
    return row;
  }

  // --- rewards of prompts ---------------------------------------------------------------------------------

  function rewards(section, data) {
    const named = data.checkpoints.filter(({ name }) => data.rewards.some((r) => name in r.means));
    const form = section.querySelector("form").elements, [first, ...others] = named.map(({ name }) => name);
    options(form.of, [...others.map((name) => [`gain ${name}`, `${name} minus ${first}`]),
      ...named.map(({ name }) => [`mean ${name}`, `reward of ${name}`])]);
    form.of.selectedIndex = Math.max(0, others.length - 1);
    const legend = section.querySelector(".legend");
    for (const { name, color } of named) {
      const entry = make("span");
      entry.append(swatch(color), name);
      legend.append(entry);
    }
    const all = data.rewards.flatMap((r) => Object.values(r.means));
    const low = Math.min(0, ...all), high = Math.max(all.every((mean) => mean <= 1) ? 1 : 10, ...all);
    function number(of, { means }) {
      const name = of.slice(5);
      const value = of.startsWith("gain ") ? means[name] - means[first] : means[name];
      return Number.isFinite(value) ? value : null;
    }
    function found({ text, of, order }) {
      const sign = order.value === "up" ? 1 : -1;
      const items = data.rewards.filter((r) => holds(data.prompts[r.prompt], text.value));
      const value = (r) => number(of.value, r) ?? sign * Infinity;
      return items.sort((a, b) => value(a) === value(b) ? 0 : sign * (value(a) - value(b)));
    }
    const place = (mean) => `${100 * (mean - low) / (high - low)}%`;
    list(section, QUESTIONS_AT_ONCE, found, (r) => rewardCard(r, data, named, place));
  }

  function rewardCard(r, data, named, place) {
    const card = make("div", "question"), means = make("p", "gaps"), track = make("div", "track");
    const said = [];
    for (const { name, color } of named.filter(({ name }) => name in r.means)) {
      const entry = make("span"), dot = swatch(color, "dot"), words = `${name} ${r.means[name].toFixed(2)}`;
      entry.append(swatch(color), words);
      means.append(entry);
      dot.style.left = place(r.means[name]);
      track.append(dot);
      said.push(words);
    }
    track.setAttribute("role", "img");
    track.setAttribute("aria-label", said.join(", "));
    card.append(make("h4", "", data.prompts[r.prompt]), means, track);
    return card;
  }

  // --- answers --------------------------------------------------------------------------------------------

  function answers(section, data) {
    const form = section.querySelector("form").elements;
    options(form.of, [["", "all checkpoints"], ...data.checkpoints.map(({ name }, i) => [String(i), name])]);
    const hasBeliefs = data.questions.length > 0;
    form.belief.hidden = !hasBeliefs;
    form.verdict.hidden = !data.judged;
    form.met.hidden = !data.answers.some((answer) => "missed" in answer);
    const groups = grouped(data, hasBeliefs);
    const count = section.querySelector(".count");
    const meets = (answer) => ("missed" in answer ? String(!answer.missed.length) : "none");
    function found({ text, of, verdict, belief, met }) {
      const items = [];
      for (const group of groups) {
        if (belief.value && belief.value !== group.kind) continue;
        const matches = group.answers.filter((answer) =>
          (!of.value || String(answer.c) === of.value) &&
          (!verdict.value || String(answer.verdict ?? "none") === verdict.value) &&
          (!met.value || meets(answer) === met.value) &&
          (holds(answer.text, text.value) || holds(group.words, text.value) || holds(data.prompts[group.prompt], text.value)));
        if (matches.length) items.push({ ...group, answers: matches });
      }
      const total = items.reduce((sum, group) => sum + group.answers.length, 0);
      count.textContent = `${total} answers`;
      return items;
    }
    list(section, BELIEFS_AT_ONCE, found, (group) => beliefCard(group, data, hasBeliefs));
  }

  function grouped(data, hasBeliefs) {
    const groups = new Map();
    for (const answer of data.answers) {
      const label = hasBeliefs ? answer.label ?? "" : "";
      const key = `${answer.p} ${label}`;
      if (!groups.has(key)) groups.set(key, beliefOf(answer.p, label, data.beliefs[answer.p]));
      groups.get(key).answers.push(answer);
    }
    if (!hasBeliefs) return [...groups.values()];
    const rank = { minority: 0, majority: 1, none: 2 };
    return [...groups.values()].sort((a, b) => rank[a.kind] - rank[b.kind] || a.share - b.share || a.prompt - b.prompt);
  }

  function beliefOf(prompt, label, beliefs) {
    const held = beliefs?.[label];
    if (!held) return { prompt, words: label ? `class ${label}, no option of the question` : "no belief stated", share: 0, kind: "none", answers: [] };
    const largest = Math.max(...Object.values(beliefs).map(([, share]) => share));
    return { prompt, words: held[0], share: held[1], kind: held[1] < largest ? "minority" : "majority", answers: [] };
  }

  function beliefCard(group, data, hasBeliefs) {
    const card = make("div", "belief");
    card.append(make("h4", "", data.prompts[group.prompt]));
    if (hasBeliefs) {
      const head = make("div", "head");
      head.append(make("span", "words", group.words));
      if (group.kind !== "none") head.append(make("span", "muted", `${percent(group.share)} of the group`));
      card.append(head);
    }
    for (const answer of [...group.answers].sort((a, b) => a.c - b.c)) card.append(answerRow(answer, data));
    return card;
  }

  function answerRow(answer, data) {
    const row = make("div", "answer"), who = make("span", "who"), text = make("span", "text", answer.text);
    const { name, color } = data.checkpoints[answer.c];
    who.append(swatch(color), name);
    const isChecked = "missed" in answer, verdict = isChecked ? !answer.missed.length : answer.verdict;
    const mark = make("span", ...({ true: ["yes", "✓"], false: ["no", "✗"] }[verdict] ?? ["none", "–"]));
    const meanings = isChecked ? { true: "meets all constraints", false: "misses some" } :
      { true: "voices the belief", false: "does not voice it" };
    mark.title = meanings[verdict] ?? "no verdict";
    const said = [];
    if ("reward" in answer) said.push(`reward ${answer.reward.toFixed(2)}`);
    if (answer.missed?.length) said.push(`misses ${answer.missed.join("; ")}`);
    if ("similarity" in answer) said.push(`RS ${answer.similarity.toFixed(2)}`);
    if ("score" in answer) said.push(`score ${answer.score}`);
    if ("preference" in answer) said.push(`preference ${answer.preference.toFixed(2)}`);
    if (answer.fits === false) said.push("class and words disagree");
    if ("finish" in answer) said.push(answer.finish === "length" ? "cut at the limit" : answer.finish);
    if (data.decodings.length > 1) said.push(answer.d);
    mark.hidden = !data.judged && !isChecked;
    if (said.length) text.append(make("small", "", said.join(", ")));
    row.append(who, mark, text);
    return row;
  }

  // --- start ----------------------------------------------------------------------------------------------

  for (const article of document.querySelectorAll("[data-evaluation]")) {
    const data = json(article.querySelector(".evaluation-data"));
    const find = (name) => article.querySelector(`#${article.id}-${name}`);
    if (find("questions")) questions(find("questions"), data);
    if (find("rewards")) rewards(find("rewards"), data);
    if (find("answers")) answers(find("answers"), data);
  }

  for (const button of document.querySelectorAll(".copy")) {
    button.addEventListener("click", async () => {
      const text = button.previousElementSibling;
      try {
        await navigator.clipboard.writeText(text.textContent);
        button.textContent = "copied";
      } catch {
        getSelection().selectAllChildren(text);
        button.textContent = "selected";
      }
      setTimeout(() => { button.textContent = "copy"; }, 1500);
    });
  }

  if (document.querySelector(".plot-data")) draw();
})();
