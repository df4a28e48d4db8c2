// A service that loads many modules and builds a large model before it listens: node [--expose-gc] service.js PORT
'use strict';
const fs = require('fs'), http = require('http'), path = require('path'), modules = require('module');

let loaded = 0;
const attempt = name => { try { require(name); loaded++; } catch (error) { /* not in this version */ } };
const unwanted = /^(_|inspector|repl|test|wasi|trace_events|sys|punycode)/;
for (const name of modules.builtinModules) if (!unwanted.test(name)) attempt(name);

// The packages that come with npm, where it is installed.
const beside = ['/usr/lib/node_modules/npm', '/usr/share/nodejs/npm', path.join(path.dirname(process.execPath), '../lib/node_modules/npm')]
  .find(directory => fs.existsSync(path.join(directory, 'package.json')));
if (beside) for (const name of ['@npmcli/arborist', 'pacote', 'libnpmpublish', 'cacache', 'node-gyp', 'tar', 'semver', 'minizlib', 'glob'])
  attempt(path.join(beside, 'node_modules', name));

const index = new Map(), words = [];
for (let i = 0; i < 400000; i++) {
  const text = `record ${(i * 2654435761) % 4294967296}`;
  index.set(text, { id: i, tags: [i % 7, i % 11] });
  if (i % 10 === 0) words.push(text);
}
words.sort();
// A collection that is due would run in every copy before its first answer.
if (global.gc) gc();
http.createServer((request, response) => {
  const cached = Object.keys(require.cache).length;
  response.end(JSON.stringify({ records: index.size, first: words[0], loaded, modules: cached }));
}).listen(Number(process.argv[2]), '0.0.0.0');
