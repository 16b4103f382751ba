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

// Gradio aborts a stream that is at its end, and a page that is left takes its requests with it.
// Gradio takes both for a lost connection, says so, and loads the page anew: an aborted stream
// ends here as others do, and of what fails on a page that is left nobody hears.
const plain_fetch = window.fetch.bind(window);
let is_left = false;
addEventListener("pagehide", () => (is_left = true));
addEventListener("pageshow", () => (is_left = false));

window.fetch = (request, options) => {
  const is_stream = request instanceof Request && request.url.includes("/queue/data");
  return unless_left(is_stream ? open_stream(request) : plain_fetch(request, options));
};

async function open_stream(request) {
  const response = await plain_fetch(new Request(request, { signal: null }));
  if (!response.ok) return response;
  const reader = response.body.getReader();
  const given_up = new Promise((resolve) => {
    if (request.signal.aborted) resolve({ done: true });
    request.signal.addEventListener("abort", () => resolve({ done: true }));
  });
  const body = new ReadableStream({
    async pull(controller) {
      const { done, value } = await Promise.race([given_up, unless_left(reader.read())]);
      if (!done) return controller.enqueue(value);
      controller.close();
      reader.cancel();
    },
  });
  return new Response(body, response);
}

async function unless_left(promise) {
  try {
    return await promise;
  } catch (error) {
    if (is_left) await new Promise(() => {});
    throw error;
  }
}
