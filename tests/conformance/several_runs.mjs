// The conformance command line, run several times in one process: Node and its modules are loaded once.
//
// node several_runs.mjs PROGRAM RUNS: RUNS is a JSON list of argument lists. Exits with the first status that is not 0.
import { pathToFileURL } from "node:url";

const [node, , program, runs] = process.argv;
const exit = process.exit;
let status = 0;
for (const [number, args] of JSON.parse(runs).entries()) {
    process.argv = [node, program, ...args];
    const ended = new Promise((resolve) => (process.exit = resolve));
    await import(`${pathToFileURL(program)}?run=${number}`); // another address: the module is run again
    const code = await ended;
    console.log(`${args.join(" ")} exits with ${code}`);
    status ||= code;
}
exit(status);
