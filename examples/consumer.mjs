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

class Refused extends Error {} // what was sent is wrong: sending it again would not help

// Sends until there is an answer. All of these requests may be repeated. Throws Refused.
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
      const text = await answer.text();
      if (answer.status < 500 && answer.status !== 408 && answer.status !== 429) {
        tell('');
        if (answer.ok) return JSON.parse(text);
        throw new Refused(`${verb}: ${answer.status} ${text}`);
      }
      why = `${verb}: ${answer.status} ${text}`;
    } catch (error) {
      if (error instanceof Refused) throw error;
      why = String(error.cause ?? error);
    }
    tell(why);
    if (leaving) return {}; // its lease runs out, and another consumer gets it
    await sleep(pause);
  }
}

// All requests meet the same trouble: it is a line when it begins, and one when it is over.
let trouble = '';
function tell(why) {
  if (why && !trouble) console.error(`${gateway}: ${why}; trying again until there is an answer`);
  if (!why && trouble) console.error(`${gateway}: it answers`);
  trouble = why;
}

// By characters: half of one would be refused.
const short = (text) => Array.from(text).slice(0, 500).join('').toWellFormed();

const say = async (verb, receipt, more = {}) => (await post(verb, { receipts: [{ receipt, ...more }] })).receipts?.[0];

async function work(delivery) {
  const { receipt } = delivery;
  const extending = setInterval(() => say('extend', receipt).catch(console.error), (lease * 1000) / 3);
  let said;
  try {
    said = await say('settle', receipt, { emit: await handle(delivery) }); // only now it is handled
  } catch (error) {
    said = { error: String(error) }; // of the handler, or settling was refused: too many emits, too large, no Unicode
  } finally {
    clearInterval(extending);
  }
  if (said?.error) {
    console.error(`${delivery.event.id}: ${said.error}`);
    await say('fail', receipt, { reason: short(said.error) }).catch(console.error); // else its lease runs out
  }
}

async function consume() {
  while (!leaving) {
    try {
      const { deliveries = [] } = await post('receive', { limit: 1, wait: WAIT, lease });
      await Promise.all(deliveries.map(work));
    } catch (error) {
      console.error(String(error)); // a wrong key or train: nothing more can be received, what is in hand is finished
      leaving = true;
      process.exitCode = 1;
    }
  }
}

console.log(`serving ${train}`);
await Promise.all(Array.from({ length: AT_A_TIME }, consume));
