// An hour's messages in seconds: a reading each second, a new wagon and a line of the journal every 20.
// Timers would wait between them: message channels don't.
async ([train, from, to]) => {
  const soon = (call) => {
    const channel = new MessageChannel();
    channel.port1.onmessage = call;
    channel.port2.postMessage(0);
  };
  window.requestAnimationFrame = soon;
  for (let i = from; i < to; i++) {
    const at = train.at + i;
    const active = 100 + Math.floor(i / 20);
    const wagons = train.wagons.slice(-3).map((wagon, n) => {
      const number = active - 2 + n;
      return { ...wagon, number, name: `orders_v${number}`, settled: wagon.settled + i };
    });
    const point = [at, 500 + (i % 300), 480, 0.2, 20 + (i % 50), 52, i, 96];
    tell("train", { ...train, at, waiting: i, wagons, point });
    if (i % 20 === 0) {
      tell("past", { reset: false, wagons: [{ ...wagons[0], state: "removed", removed_at: at }] });
      const row = { at, process: "p", who: "", kind: "Switched", level: "info", wagons: [active], text: `switched ${i}` };
      tell("journal", { reset: false, rows: [row] });
    }
    await new Promise(soon);
  }
}
