// A consumer of a train in Node 20, without packages, over the gateway (docs/gateway.md):
//
//   eventwagon gateway app:train --work
//   EVENTWAGON_TRAIN=orders node consumer.mjs
//
// Ten events at a time. On SIGTERM it takes no more, and ends once those that it has are settled.
const gateway = process.env.GATEWAY ?? 'http://127.0.0.1:8080';
const train = process.env.EVENTWAGON_TRAIN ?? 'orders';
const key = process.env.GATEWAY_KEY; // from `eventwagon gateway --new-key`, with work = true
const lease = Number(process.env.LEASE ?? 30); // seconds
const AT_A_TIME = 10;
const WAIT = 5; // seconds for which a request waits for an event, and so the longest that ending takes while idle

// Your code: may be called again with the same event.id. Returns what to emit; if it throws, the train's attempts decide.
async function handle({ channel, event }) {
  if (channel === 'ship') {
    console.log(`shipped ${event.data.id}`);
    return [];
  }
  if (!Number.isInteger(event.data.id)) throw new Error(`no order: ${JSON.stringify(event.data)}`);
  return [{ channel: 'ship', data: event.data }];
}

let leaving = false;
process.on('SIGTERM', () => (leaving = true));
process.on('SIGINT', () => (leaving = true));
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

// Sends until there is an answer. All of these requests may be repeated.
async function post(verb, body) {
  for (let pause = 100; ; pause = Math.min(2 * pause, 5000)) {
    let why;
    try {
      const answer = await fetch(`${gateway}/trains/${train}/${verb}`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', ...(key && { authorization: `Bearer ${key}` }) },
        body: JSON.stringify(body),
        signal: AbortSignal.timeout(60_000),
      });
      if (answer.ok) return await answer.json();
      why = `${answer.status} ${await answer.text()}`;
      if (answer.status < 500 && answer.status !== 408) {
        console.error(`${verb}: ${why}`); // a mistake of ours: sending it again would not help
        process.exit(1);
      }
    } catch (error) {
      why = String(error.cause ?? error);
    }
    console.error(`${verb}: ${why}; trying again`);
    if (leaving) return {}; // its lease runs out, and another consumer gets it
    await sleep(pause);
  }
}

const say = async (verb, receipt, more = {}) => (await post(verb, { receipts: [{ receipt, ...more }] })).receipts?.[0];

async function work(delivery) {
  const { receipt } = delivery;
  const extending = setInterval(() => say('extend', receipt), (lease * 1000) / 3);
  let said;
  try {
    said = await say('settle', receipt, { emit: await handle(delivery) }); // only now it is handled
  } catch (error) {
    said = { error: String(error) };
  } finally {
    clearInterval(extending);
  }
  if (said?.error) {
    console.error(`${delivery.event.id}: ${said.error}`);
    await say('fail', receipt, { reason: said.error.slice(0, 2000) });
  }
}

async function consume() {
  while (!leaving) {
    const { deliveries = [] } = await post('receive', { limit: 1, wait: WAIT, lease });
    await Promise.all(deliveries.map(work));
  }
}

console.log(`serving ${train}`);
await Promise.all(Array.from({ length: AT_A_TIME }, consume));
