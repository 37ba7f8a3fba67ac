// An application with OpenFeature's SDK and its OFREP provider: `node ofrep.cjs server|web URL [OPTIONS]`.
"use strict";

const { createRequire } = require("node:module");
const { createInterface } = require("node:readline");

const packages = createRequire(process.env.PACKAGES + "/");
const [, , kind, baseUrl, options = "{}"] = process.argv;
const tell = (line) => process.stdout.write(JSON.stringify(line) + "\n");

// What goes over the wire is told, so that a test sees revalidations and when they happen.
async function fetchImplementation(request, init) {
  const response = await fetch(request, init);
  const { pathname, search } = new URL(request.url);
  const known = request.headers.get("if-none-match");
  tell({ event: "request", path: pathname, query: search, known, status: response.status });
  return response;
}

let client, OpenFeature;

const operations = {
  async start({ context = {} }) {
    if (kind === "server") {
      ({ OpenFeature } = packages("@openfeature/server-sdk"));
      const { OFREPProvider } = packages("@openfeature/ofrep-provider");
      await OpenFeature.setProviderAndWait(new OFREPProvider({ baseUrl, fetchImplementation }));
      client = OpenFeature.getClient();
      return;
    }
    const { OpenFeature: web, ProviderEvents } = packages("@openfeature/web-sdk");
    const { OFREPWebProvider } = packages("@openfeature/ofrep-web-provider");
    OpenFeature = web;
    globalThis.EventSource = packages("eventsource").EventSource; // browsers have it
    const provider = new OFREPWebProvider({
      baseUrl, fetchImplementation, cacheMode: "disabled", ...JSON.parse(options),
    });
    for (const type of [ProviderEvents.ConfigurationChanged, ProviderEvents.Stale, ProviderEvents.Error]) {
      OpenFeature.addHandler(type, ({ flagsChanged, message }) => tell({ event: type, flagsChanged, message }));
    }
    await OpenFeature.setContext(context);
    await OpenFeature.setProviderAndWait(provider);
    client = OpenFeature.getClient();
  },

  async evaluate({ type, key, default: fallback, context }) {
    const name = `get${type[0].toUpperCase()}${type.slice(1)}Details`;
    return client[name](key, fallback, ...(context ? [context] : []));
  },

  // What a server's provider of OFREP 0.3 does with a flag; the one of the registry is older.
  async resolve({ key, default: fallback, context = {} }) {
    const web = createRequire(packages.resolve("@openfeature/ofrep-web-provider"));
    const { OFREPApi, toResolutionDetails } = web("@openfeature/ofrep-core");
    const { value, httpStatus } = await new OFREPApi({ baseUrl }, fetchImplementation).postEvaluateFlag(key, { context });
    return httpStatus === 200 ? toResolutionDetails(value, fallback) : value;
  },

  async context({ context }) {
    await OpenFeature.setContext(context);
  },
};

createInterface({ input: process.stdin }).on("line", async (line) => {
  const { id, op, ...rest } = JSON.parse(line);
  try {
    tell({ id, result: await operations[op](rest) });
  } catch (error) {
    tell({ id, error: String(error?.stack ?? error) });
  }
});
