// Asks again and again while somebody looks.

const BUSY = 2000; // milliseconds between two looks at something that runs
const IDLE = 15000;

// Calls `look(signal)`, which tells whether something runs, until `stop()`. A page in the background waits.
export class Poll {
  constructor(look) {
    this.look = look;
    this.controller = new AbortController();
    this.seen = () => document.hidden || this.now();
    document.addEventListener("visibilitychange", this.seen);
    this.now();
  }

  async now() {
    clearTimeout(this.timer);
    if (this.isLooking) return;
    this.isLooking = true;
    let runs = false;
    try {
      runs = await this.look(this.controller.signal);
    } catch (error) {
      if (error.name !== "AbortError") throw error;
    } finally {
      this.isLooking = false;
      if (!this.controller.signal.aborted) this.timer = setTimeout(() => document.hidden || this.now(), runs ? BUSY : IDLE);
    }
  }

  stop() {
    this.controller.abort();
    clearTimeout(this.timer);
    document.removeEventListener("visibilitychange", this.seen);
  }
}
