// What the page does in the browser alone. Loaded before Gradio's own scripts.
window.martlet = {
  theme_key: "martlet_theme",

  turn_theme() {
    const is_dark = document.body.classList.toggle("dark");
    localStorage.setItem(this.theme_key, is_dark ? "dark" : "light");
  },

  restore_theme() {
    const theme = localStorage.getItem(this.theme_key);
    if (theme) document.body.classList.toggle("dark", theme === "dark");
  },

  // Gradio's own words follow the browser's language; here they follow the page's.
  speak(language) {
    Object.defineProperty(navigator, "language", { get: () => language });
    Object.defineProperty(navigator, "languages", { get: () => [language] });
    document.documentElement.lang = language;
  },

  // The slider below the ribbon is what the page listens to.
  turn_to_token(token) {
    const number = document.querySelector("#step input[type=number]");
    if (!number) return;
    number.value = [...token.parentNode.children].indexOf(token) + 1;
    for (const kind of ["input", "change", "blur"]) {
      number.dispatchEvent(new Event(kind, { bubbles: true }));
    }
  },

  download(name, text) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/jsonl" }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  },
};

document.addEventListener("click", (event) => {
  const token = event.target.closest?.(".ribbon .token");
  if (token) martlet.turn_to_token(token);
});
