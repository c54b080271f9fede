"use strict";
// The page works without this: it filters the cards, and shows one large with what each patch says.
const cards = [...document.querySelectorAll(".card")];
const dialog = document.querySelector("dialog");

function element(tag, text, ...names) {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  made.classList.add(...names);
  return made;
}

function shown(number) {
  const digits = Number(number.toPrecision(3)).toString().replace("-", "\u2212");
  return number > 0 ? "+" + digits : digits;
}

// Filter.
const form = document.querySelector(".filter");
if (form && cards.length) {
  const status = form.querySelector("[role=status]");
  const apply = () => {
    const which = form.which.value, name = form.class.value, sure = form.sure.value / 100;
    let left = 0;
    for (const card of cards) {
      const { answer, labels } = card.dataset;
      const of = !name || [answer, labels].some((all) => all === name || all.split(", ").includes(name));
      const fits = (!which || card.classList.contains(which)) && of && Number(card.dataset.sure) >= sure;
      card.hidden = !fits;
      left += fits;
    }
    form.querySelector("output").textContent = form.sure.value;
    status.textContent = `${left} of ${cards.length} ${form.dataset.of} on this page`;
  };
  form.addEventListener("input", apply);
  form.addEventListener("change", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  apply();
}

// Large view.
function patchesOf(card) {
  try {
    return JSON.parse(card.dataset.patches);
  } catch {
    return null;
  }
}

function nearest(middles, at) {
  return middles.reduce((best, middle, k) => (Math.abs(middle - at) < Math.abs(middles[best] - at) ? k : best), 0);
}

let opener = null;

function open(card) {
  const patches = patchesOf(card), marks = [];
  let row = 0, column = 0;
  const says = element("p", "", "says");
  says.setAttribute("role", "status");
  const point = () => {
    const index = row * patches.x.length + column;
    const [width, height] = patches.window;
    for (const mark of marks) {
      mark.style.left = `${100 * (patches.x[column] - width / 2)}%`;
      mark.style.top = `${100 * (patches.y[row] - height / 2)}%`;
      mark.style.width = `${100 * width}%`;
      mark.style.height = `${100 * height}%`;
    }
    const values = Object.entries(patches.values).map(([name, all]) =>
      name === "weight" ? `weight ${(100 * all[index]).toPrecision(2)} %` : `${name} ${shown(all[index])}`);
    says.textContent = `patch in row ${row + 1}, column ${column + 1}, for ${card.dataset.target}: ${values.join(", ")}`;
  };
  const pictures = element("div", "", "large");
  for (const picture of card.querySelectorAll("img")) {
    const frame = element("div", "", "frame"), image = picture.cloneNode();
    image.loading = "eager";
    frame.append(image);
    if (patches) {
      const mark = element("span", "", "mark");
      marks.push(mark);
      frame.append(mark);
      frame.addEventListener("pointermove", (event) => {
        const box = image.getBoundingClientRect();
        column = nearest(patches.x, (event.clientX - box.left) / box.width);
        row = nearest(patches.y, (event.clientY - box.top) / box.height);
        point();
      });
    }
    const figure = element("figure");
    figure.append(frame, element("figcaption", picture.alt));
    pictures.append(figure);
  }
  const close = element("button", "close");
  close.addEventListener("click", () => dialog.close());
  const title = element("h2", card.querySelector("h4").textContent.trim());
  const about = element("p", card.querySelector("p").textContent, "quiet");
  const hint = element("p", "Point at a patch, or move with the arrow keys.", "quiet");
  dialog.replaceChildren(title, about, pictures, ...(patches ? [says, hint] : []), close);
  dialog.onkeydown = (event) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!patches || !step) return;
    event.preventDefault();
    row = Math.min(patches.y.length - 1, Math.max(0, row + step[0]));
    column = Math.min(patches.x.length - 1, Math.max(0, column + step[1]));
    point();
  };
  if (patches) {
    // It begins where the most weight is.
    const weights = patches.values.weight, heaviest = weights.indexOf(Math.max(...weights));
    row = Math.floor(heaviest / patches.x.length);
    column = heaviest % patches.x.length;
    point();
  }
  opener = document.activeElement;
  dialog.showModal();
  close.focus();
}

dialog.addEventListener("close", () => opener && opener.focus());
for (const card of cards) {
  const pictures = card.querySelector(".pictures");
  if (!pictures) continue;
  pictures.classList.add("opens");
  pictures.tabIndex = 0;
  pictures.setAttribute("role", "button");
  pictures.setAttribute("aria-label", `${card.querySelector("h4").textContent.trim()}: show large`);
  pictures.addEventListener("click", () => open(card));
  pictures.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      open(card);
    }
  });
}

// What is folded is printed too.
addEventListener("beforeprint", () => {
  for (const folded of document.querySelectorAll("details")) folded.open = true;
});
