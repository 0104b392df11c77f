// Writes each dashboard as a typed constant, for the compiler to judge.
import { readdirSync, readFileSync, writeFileSync } from "node:fs";

const folder = "../dashboards";
const constants = readdirSync(folder)
  .filter((name) => name.endsWith(".json"))
  .map((name) => {
    const content = readFileSync(`${folder}/${name}`, "utf8");
    return `export const ${name.replace(/\W/g, "_")}: Json<Dashboard> = ${content};`;
  });
const header = `import type { Dashboard, DataQuery } from "@grafana/schema";

// What JSON can hold of a type: an enum's values in place of its members. A
// query may hold whatever its data source understands.
type Json<T> = T extends string
  ? \`\${T}\`
  : T extends DataQuery
    ? { [K in keyof T]: Json<T[K]> } & { [field: string]: unknown }
  : T extends object
    ? { [K in keyof T]: Json<T[K]> }
    : T;
`;
writeFileSync("dashboards.ts", [header, ...constants].join("\n"));
