// Browsers refuse to start a worker from the file system. There, the search runs in a hidden frame
// instead, which has the three things of a worker that it uses: importScripts and messages, both ways.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(address) {
      super();
      this.waiting = [];
      const frame = document.createElement("iframe");
      frame.hidden = true;
      frame.addEventListener("load", () => this.begin(frame.contentWindow, new URL(address, document.baseURI)), { once: true });
      frame.srcdoc = "<!doctype html><html><body></body></html>";
      const add = () => document.body.append(frame);
      if (document.body) add();
      else document.addEventListener("DOMContentLoaded", add);
    }

    begin(inside, address) {
      const load = (script) =>
        new Promise((loaded, failed) => {
          const tag = inside.document.createElement("script");
          tag.onload = loaded;
          tag.onerror = failed;
          tag.src = new URL(script, address);
          inside.document.body.append(tag);
        });
      // One after the other, as a later one may use what an earlier one defines.
      inside.importScripts = (...scripts) =>
        scripts.reduce((before, script) => before.then(() => load(script)), Promise.resolve());
      inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      load(address).then(() => {
        this.inside = inside;
        this.waiting.splice(0).forEach((data) => this.postMessage(data));
      });
    }

    postMessage(data) {
      if (this.inside) this.inside.dispatchEvent(new MessageEvent("message", { data }));
      else this.waiting.push(data);
    }

    terminate() {}
  };
}
