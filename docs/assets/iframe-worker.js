// Search in pages opened from disk, where browsers refuse workers: the worker's script runs in a hidden frame instead.
// The theme asks for window.IFrameWorker; on a server nothing is changed.
if (location.protocol === "file:") {
  window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      this.inside = new Promise((resolve) => {
        frame.addEventListener("load", () => {
          const { contentWindow: inside, contentDocument: page } = frame
          inside.postMessage = (data) => this.tell(this, data)
          const script = page.createElement("script")
          script.src = url
          script.onload = () => resolve(inside)
          page.body.append(script)
        }, { once: true })
      })
      if (document.body) document.body.append(frame)
      else addEventListener("DOMContentLoaded", () => document.body.append(frame))
    }

    postMessage(data) {
      this.inside.then((inside) => this.tell(inside, data))
    }

    tell(receiver, data) {
      setTimeout(() => receiver.dispatchEvent(new MessageEvent("message", { data })))
    }
  }
  window.Worker = window.IFrameWorker
}
