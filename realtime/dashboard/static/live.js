// The stream of events: connects, comes back where it was, and says how it stands.

export class Live {
  #source = null;
  #query = "";
  #place = "";
  #timer = 0;

  /** @param {{state: Function, orders: Function, summary: Function, standing: Function}} on */
  constructor(on) {
    this.on = on;
  }

  /** Looks at something else, from the beginning. */
  open(query) {
    this.#query = query;
    this.#place = "";
    this.#connect();
  }

  #connect() {
    clearTimeout(this.#timer);
    this.#source?.close();
    this.on.standing("connecting");
    const query = new URLSearchParams(this.#query);
    if (this.#place) query.set("last_event_id", this.#place);
    const source = new EventSource(`/dashboard/api/stream?${query}`);
    this.#source = source;
    const take = (kind, act) => source.addEventListener(kind, (event) => {
      if (source !== this.#source) return;
      if (event.lastEventId) this.#place = event.lastEventId;
      act(JSON.parse(event.data));
    });
    source.onopen = () => this.on.standing("live");
    take("state", (data) => this.on.state(data));
    take("resync", (data) => this.on.state(data));
    take("orders", (data) => this.on.orders(data));
    take("summary", (data) => this.on.summary(data));
    source.onerror = () => {
      if (source !== this.#source) return;
      this.on.standing("offline");
      // The browser comes back by itself, with the id of the last event, unless it was answered with a refusal.
      if (source.readyState === EventSource.CLOSED) this.#ask();
    };
  }

  async #ask() {
    const answer = await fetch(`/dashboard/api/state?${this.#query}`).catch(() => null);
    if (answer?.status === 401) {
      location.assign(`/dashboard/login?${new URLSearchParams({ next: location.pathname + location.search })}`);
      return;
    }
    this.#timer = setTimeout(() => this.#connect(), 1000 + Math.random() * 1000);
  }
}
