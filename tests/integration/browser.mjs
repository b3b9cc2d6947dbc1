// Drives a headless Chromium for the tests: a line of JSON in, one out.
//
// launch {executable, directory}  -> {version}
// open {url}                      -> {status}; the page is a new one, `problems` begins anew
// wait {script, seconds}          -> {value} of the expression, once it is true
// evaluate {script}               -> {value} of the expression
// fill {selector, text}, press {selector, key}
// screenshot {path, width, height}
// problems                        -> {problems}: console errors, uncaught errors, CSP violations
// close

import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const require = createRequire(import.meta.url); // looks along NODE_PATH, which `import` does not
const { chromium } = require("playwright-core");

let browser = null;
let page = null;
let problems = [];

const commands = {
  async launch({ executable, directory }) {
    browser = await chromium.launchPersistentContext(directory, {
      executablePath: executable,
      headless: true,
      args: [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
      ],
    });
    await browser.addInitScript(() => {
      document.addEventListener("securitypolicyviolation", (event) =>
        console.error(`CSP: ${event.violatedDirective} ${event.blockedURI}`));
    });
    return { version: browser.browser()?.version() ?? "" };
  },

  async open({ url }) {
    await page?.close();
    problems = [];
    page = await browser.newPage();
    page.on("console", (message) => {
      if (["error", "warning"].includes(message.type())) problems.push(message.text());
    });
    page.on("pageerror", (error) => problems.push(`uncaught: ${error.message}`));
    const response = await page.goto(url);
    return { status: response.status() };
  },

  async wait({ script, seconds = 10 }) {
    // Asked from outside: the page's own policy forbids it to evaluate texts.
    const end = Date.now() + seconds * 1000;
    for (;;) {
      const value = await page.evaluate(script);
      if (value) return { value };
      if (Date.now() > end) throw new Error(`not true in time: ${script}`);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  },

  async evaluate({ script }) {
    return { value: await page.evaluate(script) };
  },

  async fill({ selector, text }) {
    await page.fill(selector, text);
    return {};
  },

  async press({ selector, key }) {
    await page.press(selector, key);
    return {};
  },

  async screenshot({ path, width, height }) {
    await page.setViewportSize({ width, height });
    await page.screenshot({ path });
    return {};
  },

  async problems() {
    return { problems };
  },

  async close() {
    await browser?.close();
    return {};
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { do: name, ...given } = JSON.parse(line);
  let answer;
  try {
    answer = await commands[name](given);
  } catch (error) {
    answer = { error: String(error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}

// Whoever started us is gone: so is the browser.
await browser?.close();
