"use strict";
(() => {
  const root = document.documentElement;
  const texts = JSON.parse(root.dataset.texts);
  const names = { auto: texts.auto, light: texts.light, dark: texts.dark };
  // Storage is refused on some systems for pages from disk; the choice then lasts as long as the page.
  const stored = () => { try { return localStorage.getItem("lprnet-theme"); } catch { return null; } };
  const show = (theme) => {
    if (theme === "auto") delete root.dataset.theme; else root.dataset.theme = theme;
  };
  let theme = stored() in names ? stored() : "auto";
  show(theme);  // in the head, before anything is painted

  const themeButton = () => {
    const button = document.querySelector("button.theme");
    const label = () => {
      button.querySelector(".theme-name").textContent = names[theme];
      button.setAttribute("aria-label", `${texts.theme}: ${names[theme]}`);
    };
    button.hidden = false;
    label();
    button.addEventListener("click", () => {
      theme = { auto: "light", light: "dark", dark: "auto" }[theme];
      try { localStorage.setItem("lprnet-theme", theme); } catch { /* see above */ }
      show(theme);
      label();
    });
  };

  // The choice is of this report alone, and kept by the page that it led to: a copy of one page
  // has no other beside it, and must not look for one.
  const languages = () => {
    const { language, own } = root.dataset;
    const links = [...document.querySelectorAll("a.language")];
    const name = `lprnet-language:${new URL(".", document.querySelector(".brand").href).pathname}`;
    const keep = (code) => { try { localStorage.setItem(name, code); } catch { /* see above */ } };
    const kept = () => { try { return localStorage.getItem(name); } catch { return null; } };
    const chosen = language === own && links.find((link) => link.dataset.language === kept());
    if (chosen) { location.replace(chosen.href + location.hash); return; }
    if (language !== own) keep(language);
    links.forEach((link) => link.addEventListener("click", () => {
      if (link.dataset.language === own) keep(own);
      link.hash = location.hash;
    }));
  };

  const key = (cell) => cell.dataset.value ?? cell.textContent.trim();
  const compare = (a, b, numbers) => numbers ? Number(a) - Number(b)
    : a.localeCompare(b, "zh-Hans-CN", { numeric: true });

  const sortable = (table) => {
    const body = table.tBodies[0];
    const original = [...body.rows];
    const headings = [...table.tHead.rows[0].cells];
    headings.forEach((heading, column) => {
      if (!heading.dataset.sort) return;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      heading.append(button);
      heading.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        const next = { none: "ascending", ascending: "descending", descending: "none" };
        const order = next[heading.getAttribute("aria-sort")];
        headings.forEach((other) => other.hasAttribute("aria-sort")
          && other.setAttribute("aria-sort", "none"));
        heading.setAttribute("aria-sort", order);
        if (order === "none") { body.append(...original); return; }
        const keyed = original.map((row) => [key(row.cells[column]), row]);
        const absent = (text) => text === "" || text === "–";
        const numbers = keyed.every(([text]) => absent(text) || !Number.isNaN(Number(text)));
        const sign = order === "ascending" ? 1 : -1;
        // What has no value stays at the end either way.
        keyed.sort(([a], [b]) => absent(a) || absent(b) ? absent(a) - absent(b)
          : sign * compare(a, b, numbers));
        body.append(...keyed.map(([, row]) => row));
      });
    });
  };

  const filter = () => {
    const field = document.getElementById("filter");
    if (!field) return;
    const rows = [...document.getElementById("results-table").tBodies[0].rows];
    const count = document.querySelector(".filter-count");
    field.parentElement.hidden = rows.length < 6;
    field.addEventListener("input", () => {
      const wanted = field.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      rows.forEach((row) => {
        const text = row.textContent.toLowerCase();
        row.hidden = !wanted.every((word) => text.includes(word));
        shown += !row.hidden;
      });
      count.textContent = wanted.length ? texts.count.replace("{shown}", shown).replace("{all}", rows.length) : "";
    });
  };

  const zoom = () => {
    const links = document.querySelectorAll("a.zoom");
    if (!links.length || !window.HTMLDialogElement) return;
    const dialog = document.createElement("dialog");
    const image = document.createElement("img");
    const caption = document.createElement("p");
    const close = document.createElement("button");
    close.type = "button";
    close.textContent = texts.close;
    close.addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    dialog.setAttribute("aria-label", texts.figure);
    // At least as wide as its labels need; on a phone it is dragged.
    const pan = document.createElement("div");
    pan.className = "pan";
    pan.tabIndex = 0;
    pan.setAttribute("role", "group");
    pan.setAttribute("aria-label", texts.pan);
    pan.append(image);
    caption.append(close, document.createElement("span"));
    dialog.append(pan, caption);
    document.body.append(dialog);
    links.forEach((link) => link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      const small = link.querySelector("img");
      image.src = small.src;
      image.alt = small.alt;
      caption.lastChild.textContent = small.alt;
      dialog.showModal();
    }));
  };

  const copies = () => document.querySelectorAll("button.copy").forEach((button) => {
    if (!navigator.clipboard) return;
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
      button.textContent = texts.copied;
      setTimeout(() => { button.textContent = texts.copy; }, 1500);
    });
  });

  const hints = () => {
    const look = (box) => {
      const rest = box.scrollWidth - box.clientWidth;
      box.previousElementSibling.hidden = rest < 3;
      box.classList.toggle("more", rest - box.scrollLeft > 2);
    };
    const sizes = new ResizeObserver((seen) => seen.forEach((one) => look(one.target)));
    document.querySelectorAll(".scroll").forEach((box) => {
      const hint = document.createElement("p");
      hint.className = "scroll-hint";
      hint.textContent = texts.hint;
      hint.hidden = true;
      box.before(hint);
      box.addEventListener("scroll", () => look(box), { passive: true });
      sizes.observe(box);
    });
  };

  // Paper has no folds; what a link leads into must be open.
  const folds = () => {
    let opened = [];
    addEventListener("beforeprint", () => {
      opened = [...document.querySelectorAll("details:not([open])")];
      opened.forEach((one) => { one.open = true; });
    });
    addEventListener("afterprint", () => opened.forEach((one) => { one.open = false; }));
  };

  document.addEventListener("DOMContentLoaded", () => {
    themeButton();
    languages();
    document.querySelectorAll("table.sortable").forEach(sortable);
    filter();
    zoom();
    copies();
    hints();
    folds();
  });
})();
