import { readFileSync } from "node:fs";

const { MODELREGISTRY_TOKEN, MODELREGISTRY_TOKEN_FILE } = process.env;

/** The token: the one in a file that somebody renews, if there is one. */
export function token(): string {
  return MODELREGISTRY_TOKEN_FILE ? readFileSync(MODELREGISTRY_TOKEN_FILE, "utf8").trim() : MODELREGISTRY_TOKEN!;
}
