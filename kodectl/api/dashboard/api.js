// The node's API: requests with the token, and events as they happen.

const TOKEN = "kodectl-token";
const REQUEST_LIMIT_MS = 10_000;
const POLL_S = 25;
const FIRST_PAUSE_MS = 500;
const MOST_PAUSE_MS = 15_000;
const SOCKET_LIMIT_MS = 5_000;
const POLLED_FOR_MS = 30_000;
const TOPICS = ["node", "peer", "nat", "dht", "message"];
/** Of what was before the page was opened. Messages are not: there may be thousands, of the last minute. */
const PAST = ["node", "peer", "nat", "dht"];
const MOST_PAGES = 20;

/** What the node answered instead of what was asked for (RFC 9457). */
export class Problem extends Error {
  constructor(status, told) {
    super(told.detail ?? `HTTP ${status}`);
    this.status = status;
    this.code = told.code ?? null;
    this.hint = told.hint ?? null;
  }
}

export class Unreachable extends Error {}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export class Api {
  #memory = null;

  get token() {
    try {
      return sessionStorage.getItem(TOKEN);
    } catch {
      return this.#memory;
    }
  }

  set token(text) {
    this.#memory = text;
    try {
      if (text === null) sessionStorage.removeItem(TOKEN);
      else sessionStorage.setItem(TOKEN, text);
    } catch {
      // No storage: it lasts as long as the page.
    }
  }

  /** Throws Problem and Unreachable. */
  async get(path, limitMs = REQUEST_LIMIT_MS) {
    let response;
    const token = this.token;
    try {
      response = await fetch(path, {
        headers: token ? { Authorization: `Bearer ${token}` } : {},
        cache: "no-store",
        signal: AbortSignal.timeout(limitMs),
      });
      const told = await response.json();
      if (response.ok) return told;
      throw new Problem(response.status, told);
    } catch (error) {
      if (error instanceof Problem) throw error;
      throw new Unreachable(response ? "what answers is no node" : "the node does not answer");
    }
  }
}

/** Brings events in order, over the WebSocket, or by long polls where that is not to be had (a token goes in no header of a
 *  WebSocket; some proxies pass none). `told` gets events and gaps, `state` gets "live", "polled" or "lost". */
export class Events {
  #seq = null;
  #run = null;
  #ended = false;

  constructor(api, told, state) {
    this.api = api;
    this.told = told;
    this.state = state;
  }

  end() {
    this.#ended = true;
    this.socket?.close();
  }

  async run() {
    let pauseMs = FIRST_PAUSE_MS;
    while (!this.#ended) {
      let heard = false;
      const begun = this.#seq !== null || (await this.#past());
      if (begun && !this.api.token) heard = await this.#overSocket();
      if (begun && !heard && !this.#ended) heard = await this.#byPolls(this.api.token ? Infinity : POLLED_FOR_MS);
      if (this.#ended) return;
      if (!heard) this.state("lost");
      pauseMs = heard ? FIRST_PAUSE_MS : Math.min(2 * pauseMs, MOST_PAUSE_MS);
      await pause(pauseMs * (0.75 + Math.random() / 2));
    }
  }

  /** What is kept, up to now; whether it was to be had. */
  async #past() {
    try {
      for (let pages = 0; pages < MOST_PAGES; pages += 1) {
        const query = new URLSearchParams({ since: this.#seq ?? 0, topics: PAST });
        const page = await this.api.get(`/api/events?${query}`);
        this.#seq = page.next;
        this.#run = page.run;
        if (!page.events.length) break;
        this.told(page.events);
      }
      return true;
    } catch (error) {
      if (error instanceof Problem || error instanceof Unreachable) return false;
      throw error;
    }
  }

  /** To its end; whether it brought anything. */
  #overSocket() {
    return new Promise((resolve) => {
      let heard = false;
      const scheme = location.protocol === "https:" ? "wss" : "ws";
      const socket = (this.socket = new WebSocket(`${scheme}://${location.host}/ws`));
      const late = setTimeout(() => socket.close(), SOCKET_LIMIT_MS);
      socket.onopen = () => {
        const place = { since: this.#seq, run: this.#run };
        socket.send(JSON.stringify({ op: "subscribe", topics: TOPICS, payloads: false, ...place }));
      };
      socket.onclose = () => {
        clearTimeout(late);
        resolve(heard);
      };
      socket.onmessage = ({ data }) => {
        const message = JSON.parse(data);
        if (message.type !== "subscribed" || message.seq !== undefined) return this.#take(message);
        heard = true;
        clearTimeout(late);
        this.#seq = message.since;
        this.#run = message.run;
        this.state("live");
      };
    });
  }

  /** For so long, or until one fails; whether one brought anything. */
  async #byPolls(forMs) {
    const begun = performance.now();
    let heard = false;
    let timeout = 0;
    try {
      while (!this.#ended && performance.now() - begun < forMs) {
        const place = { since: this.#seq, run: this.#run };
        const query = new URLSearchParams({ ...place, topics: TOPICS, payloads: "no", timeout });
        const page = await this.api.get(`/api/events?${query}`, (timeout + 10) * 1000);
        heard = true;
        if (page.missed !== 0) this.told([{ type: "gap", missed: page.missed }]);
        this.#seq = page.next;
        this.#run = page.run;
        this.told(page.events);
        this.state("polled");
        timeout = page.events.length ? 0 : POLL_S;
      }
    } catch (error) {
      if (!(error instanceof Problem || error instanceof Unreachable)) throw error;
      heard = false;
    }
    return heard;
  }

  #take(message) {
    if (message.seq !== undefined) this.#seq = message.seq;
    if (message.seq !== undefined || message.type === "gap") this.told([message]);
  }
}
