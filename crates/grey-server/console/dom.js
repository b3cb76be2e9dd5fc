// Elements, made from data. Text goes in as text and nothing else, so names of models, tensors and
// tenants are never markup.

/** An element with attributes (a function is a listener, `null` leaves one out) and children. */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, String(value));
  }
  made.append(...children.flat().filter((c) => c !== null && c !== undefined));
  return made;
}

export const byId = (id) => document.getElementById(id);

/** Sets an element's text only where it is another, so that selections stay. */
export function text(element, value) {
  if (element.textContent !== String(value)) element.textContent = value;
}

/** Replaces an element's children. */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat().filter((c) => c !== null && c !== undefined));
}

/** A button that copies what `what` gives. */
export function copyButton(what, label = "Copy") {
  const button = el("button", { type: "button", class: "small" }, label);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(what());
      button.textContent = "Copied";
    } catch {
      // Without HTTPS a browser has no clipboard for other machines' pages.
      button.textContent = "Select it and copy by hand";
    }
    setTimeout(() => { button.textContent = label; }, 2000);
  });
  return button;
}
