// The conformance command line, run several times in one process: Node and its modules are loaded once.
//
// node several_runs.mjs PROGRAM: each line of the standard input is a JSON list of arguments. After each run a line
// "exits with STATUS" follows what the run printed.
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [node, , program] = process.argv;
let number = 0;
for await (const line of createInterface({ input: process.stdin })) {
    process.argv = [node, program, ...JSON.parse(line)];
    const ended = new Promise((resolve) => (process.exit = resolve));
    await import(`${pathToFileURL(program)}?run=${number++}`); // another address: the module is run again
    console.log(`exits with ${await ended}`);
}
process.reallyExit(0);
