// Files, worker threads, child processes, sockets, timers, signals; prints what does not depend on time.
const fs = require('fs'), path = require('path'), os = require('os'), net = require('net'), http = require('http');
const { Worker, isMainThread, parentPort, workerData } = require('worker_threads');
const { spawn, spawnSync, execFileSync, fork } = require('child_process');

if (!isMainThread) {
  let h = workerData;
  for (let i = 0; i < 1e6; i++) h = (h * 31 + i) % 1000003;
  fs.appendFileSync(path.join(process.env.TOP, 'workers'), workerData + '\n');
  parentPort.postMessage(h);
} else if (process.argv[3] === 'child') {
  process.on('message', m => { process.send('echo ' + m); process.disconnect(); });
} else main().catch(e => { console.log('error', e); process.exit(1); });

async function main() {
  const top = process.argv[2];
  fs.mkdirSync(top, { recursive: true });
  process.env.TOP = top;
  const f = path.join(top, 'file');
  const handle = await fs.promises.open(f, 'w+');
  for (let i = 0; i < 100; i++) await handle.write('line ' + i + '\n');
  await handle.sync();
  await handle.datasync();
  await handle.truncate(500);
  await handle.write('tail', 600);
  console.log('size', (await handle.stat()).size);
  await handle.close();
  await fs.promises.rename(f, f + '2');
  await fs.promises.copyFile(f + '2', f + '3');
  await fs.promises.open(path.join(top, 'none')).catch(e => console.log(e.code));
  await new Promise(r => fs.createReadStream(f + '3').pipe(fs.createWriteStream(f + '4')).on('finish', r));
  console.log(fs.readdirSync(top).sort().join(' '), fs.readFileSync(f + '4').length);
  const results = await Promise.all([1, 2, 3, 4, 5, 6].map(n => new Promise((ok, bad) => new Worker(__filename, { workerData: n, argv: process.argv.slice(2) }).on('message', ok).on('error', bad))));
  console.log('workers', results.join(' '), fs.readFileSync(path.join(top, 'workers'), 'utf8').split('\n').sort().join(''));
  console.log(spawnSync('sh', ['-c', 'cat; exit 3'], { input: 'piped' }).status, execFileSync('echo', ['hello']).toString().trim());
  const killed = spawn('sleep', ['60']);
  setTimeout(() => killed.kill('SIGTERM'), 50);
  console.log('killed', await new Promise(r => killed.on('exit', (c, s) => r([c, s].join(' ')))));
  await spawn('/no/such').on('error', e => console.log(e.code)) && await new Promise(r => setTimeout(r, 50));
  const child = fork(__filename, [top, 'child']);
  child.send('message');
  console.log(await new Promise(r => child.on('message', r)));
  await new Promise(r => child.on('exit', r));
  const server = http.createServer((q, a) => { a.end('served ' + q.url); }).listen(0, '127.0.0.1');
  await new Promise(r => server.on('listening', r));
  const agent = new http.Agent();
  for (let i = 0; i < 20; i++) {
    const text = await new Promise((ok, bad) => http.get({ port: server.address().port, host: '127.0.0.1', path: '/' + i, agent }, a => { let t = ''; a.on('data', d => t += d); a.on('end', () => ok(t)); }).on('error', bad));
    if (text !== 'served /' + i) console.log('wrong', text);
  }
  server.close();
  const unix = net.createServer(s => s.pipe(s)).listen(path.join(top, 'socket'));
  await new Promise(r => unix.on('listening', r));
  const s = net.connect(path.join(top, 'socket'));
  s.end('over unix');
  let text = '';
  for await (const d of s) text += d;
  console.log(text);
  unix.close();
  process.on('SIGUSR2', () => { console.log('usr2'); process.exit(17); });
  process.kill(process.pid, 'SIGUSR2');
  setTimeout(() => console.log('never'), 5000);
}
