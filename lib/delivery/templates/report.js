// Tables that sort and filter, and where one is in a page. Without it all can be read.
const FILTERED_FROM = 9;
const cellText = (row, i) => row.cells[i]?.textContent.trim() ?? "";
const asNumber = text => parseFloat(text.replaceAll(",", "").replace("−", "-"));

function sortBy(table, header, i) {
  const ascending = header.getAttribute("aria-sort") !== "ascending";
  const rows = [...table.tBodies[0].rows];
  const texts = rows.map(row => cellText(row, i)).filter(text => text);
  const numeric = texts.every(text => !isNaN(asNumber(text)));
  const compare = numeric
    ? (a, b) => (asNumber(cellText(a, i)) || 0) - (asNumber(cellText(b, i)) || 0)
    : (a, b) => cellText(a, i).localeCompare(cellText(b, i));
  rows.sort((a, b) => ascending ? compare(a, b) : compare(b, a));
  table.tBodies[0].append(...rows);
  for (const other of table.tHead.querySelectorAll("th")) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
}

function makeSortable(table) {
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, i) => {
    if (header.tagName !== "TH" || !header.textContent.trim()) return;
    const button = document.createElement("button");
    button.className = "sort";
    button.append(...header.childNodes);
    button.addEventListener("click", () => sortBy(table, header, i));
    header.append(button);
  });
}

function addFilter(table) {
  const label = document.createElement("label");
  label.className = "filter";
  label.textContent = "Rows with";
  const input = label.appendChild(document.createElement("input"));
  input.type = "search";
  input.addEventListener("input", () => {
    const wanted = input.value.toLowerCase();
    for (const row of table.tBodies[0].rows) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
    }
  });
  (table.closest(".scroll, .output_html") ?? table).before(label);
}

// rows that span, or several header rows, have an order of their own
const isPlain = table => table.tHead?.rows.length === 1 && table.tBodies.length === 1
  && !table.querySelector("[rowspan]:not([rowspan='1']), [colspan]:not([colspan='1'])");

for (const table of document.querySelectorAll("main table")) {
  if (!isPlain(table) || table.tBodies[0].rows.length < 3) continue;
  makeSortable(table);
  if (table.tBodies[0].rows.length >= FILTERED_FROM) addFilter(table);
}

const links = new Map();
for (const link of document.querySelectorAll("nav.contents ol a")) {
  links.set(link.getAttribute("href").slice(1), link);
}
const headings = [...document.querySelectorAll("main h1[id], main h2[id]")];
function markPlace() {
  const passed = headings.filter(heading => heading.getBoundingClientRect().top < 120);
  const here = links.get((passed.at(-1) ?? headings[0])?.id);
  for (const link of links.values()) {
    if (link === here) link.setAttribute("aria-current", "location");
    else link.removeAttribute("aria-current");
  }
}
if (headings.length) {
  addEventListener("scroll", markPlace, {passive: true});
  markPlace();
}
