"use strict";
// The page is whole without this. It sorts tables by their header buttons, filters them by the fields below those, and
// shows pictures and charts as large as the window.

const valueOf = (cell) => cell.dataset.v ?? cell.textContent;
// Whole numbers that a Number cannot tell apart are compared as they are.
const numberOf = (text) => (text.trim() === "" ? NaN : /^-?\d{16,}$/.test(text) ? BigInt(text) : Number(text));

// Order of two cells; what has no value comes last, whichever way it is sorted.
function compared(a, b, isNumber, sign) {
  if (!isNumber) return (a === "") - (b === "") || sign * a.localeCompare(b, undefined, { numeric: true });
  const [x, y] = [numberOf(a), numberOf(b)];
  return Number.isNaN(x) - Number.isNaN(y) || (x == y || Number.isNaN(x) ? 0 : sign * (x < y ? -1 : 1));
}

// "> 0.5", "<= 3", "7", "!= 7", "0.1 .. 0.3" or "nan" as a function of a number; null if it is none of these.
function numberTest(text) {
  if (text.toLowerCase() === "nan") return Number.isNaN;
  const range = text.match(/^(\S+?)\s*\.\.\s*(\S+)$/);
  if (range) {
    const [low, high] = [numberOf(range[1]), numberOf(range[2])];
    return Number.isNaN(low) || Number.isNaN(high) ? null : (x) => low <= x && x <= high;
  }
  const [, sign, number] = text.match(/^(>=|<=|!=|>|<|=)?\s*(.*)$/);
  const limit = numberOf(number);
  const tests = {
    ">": (x) => x > limit, ">=": (x) => x >= limit, "<": (x) => x < limit, "<=": (x) => x <= limit,
    "=": (x) => x == limit, "!=": (x) => x != limit,
  };
  return Number.isNaN(limit) ? null : tests[sign ?? "="];
}

// What a filter's field asks of a cell; null if nothing.
function testOf(field) {
  const text = field.value.trim();
  field.removeAttribute("aria-invalid");
  if (field.tagName === "SELECT") return field.selectedIndex ? (value) => value === field.value : null;
  if (text === "") return null;
  if (field.dataset.kind === "text") return (value) => value.toLowerCase().includes(text.toLowerCase());
  const test = numberTest(text);
  if (!test) field.setAttribute("aria-invalid", "true");
  return test && ((value) => value !== "" && test(numberOf(value)));
}

function enliven(box) {
  const body = box.querySelector("tbody");
  const headers = [...box.querySelectorAll("th[data-kind]")];
  const fields = [...box.querySelectorAll("[data-column]")];
  const onlyWrong = box.querySelector(".only-wrong");
  let rows = [...body.rows];

  function show() {
    const tests = fields.map((field) => [field.dataset.column, testOf(field)]).filter(([, test]) => test);
    for (const row of rows) {
      const isWanted = !onlyWrong?.checked || row.classList.contains("wrong");
      row.hidden = !(isWanted && tests.every(([column, test]) => test(valueOf(row.cells[column]))));
    }
    const shown = rows.filter((row) => !row.hidden);
    body.append(...shown, ...rows.filter((row) => row.hidden));  // the first ones are what is printed
    const count = box.querySelector("output");
    if (count) count.textContent = `${shown.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} rows`;
  }

  for (const header of headers) {
    header.querySelector("button").addEventListener("click", () => {
      const order = header.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
      for (const other of headers) other.setAttribute("aria-sort", other === header ? order : "none");
      const [i, isNumber, sign] = [header.cellIndex, header.dataset.kind === "number", order === "ascending" ? 1 : -1];
      rows = rows
        .map((row) => [valueOf(row.cells[i]), row])
        .sort(([a], [b]) => compared(a, b, isNumber, sign))
        .map(([, row]) => row);
      show();
    });
  }
  for (const field of fields) field.addEventListener("input", show);
  onlyWrong?.addEventListener("input", show);
  box.querySelector(".clear")?.addEventListener("click", () => {
    for (const field of fields) field.tagName === "SELECT" ? (field.selectedIndex = 0) : (field.value = "");
    if (onlyWrong) onlyWrong.checked = false;
    show();
  });
  show();  // a browser may have kept what was typed before the page was loaded again
}

// A click on a picture or a chart, or on the button in the corner of its card, shows it large; any click closes it.
function enlarged(shown) {
  const dialog = document.createElement("dialog");
  dialog.className = shown.closest(".paper") ? "large paper" : "large";
  dialog.append(shown.cloneNode(true));
  dialog.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

function offerLarge(figure) {
  const shown = figure.querySelector("picture, img, svg");
  const button = document.createElement("button");
  button.type = "button";
  button.className = "enlarge";
  button.textContent = "⤢";
  button.setAttribute("aria-label", `Show ${figure.querySelector("figcaption").firstChild.textContent} large`);
  button.addEventListener("click", () => enlarged(shown));
  shown.addEventListener("click", () => enlarged(shown));
  figure.prepend(button);
}

document.documentElement.classList.add("js");
document.querySelectorAll("figure").forEach(offerLarge);
document.querySelectorAll(".thumb img").forEach((image) => image.addEventListener("click", () => enlarged(image)));
document.querySelectorAll(".sortable").forEach(enliven);
