// Registers, deploys and promotes a model with a client made from the protos, in a language that is not ours.
// Usage: node client.mjs ADDRESS TOKEN PROTOS MODEL_FILE; prints one JSON object.
import crypto from "node:crypto";
import fs from "node:fs";
import path from "node:path";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const [address, token, protos, modelFile] = process.argv.slice(2);
const files = fs.readdirSync(path.join(protos, "pilotfish", "v1")).filter((f) => f.endsWith("_service.proto"));
const definition = loader.loadSync(
  files.map((f) => path.join("pilotfish", "v1", f)),
  { includeDirs: [protos], keepCase: true, longs: Number, enums: String, defaults: true },
);
const api = grpc.loadPackageDefinition(definition).pilotfish.v1;
const metadata = new grpc.Metadata();
metadata.set("authorization", `Bearer ${token}`);
const connect = (service) => new api[service](address, grpc.credentials.createInsecure());
const registry = connect("RegistryService");
const artifacts = connect("ArtifactService");
const deployments = connect("DeploymentService");

const call = (client, method, request) =>
  new Promise((resolve, reject) =>
    client[method](request, metadata, { deadline: Date.now() + 60000 }, (error, answer) =>
      error ? reject(error) : resolve(answer),
    ),
  );

const write = (upload, data) =>
  new Promise((resolve, reject) => {
    const stream = artifacts.WriteChunks(metadata, (error, answer) => (error ? reject(error) : resolve(answer)));
    for (let offset = 0; offset < data.length; offset += 1 << 20) {
      stream.write({ upload, path: "model.onnx", offset, data: data.subarray(offset, offset + (1 << 20)) });
    }
    stream.end();
  });

const ready = (name) =>
  new Promise((resolve, reject) => {
    const stream = deployments.WatchDeployment({ name }, metadata, { deadline: Date.now() + 90000 });
    stream.on("data", ({ deployment }) => {
      if (deployment.state === "DEPLOYMENT_STATE_READY") {
        resolve(deployment);
        stream.cancel();
      }
    });
    stream.on("error", (error) => error.code === grpc.status.CANCELLED || reject(error));
  });

const data = fs.readFileSync(modelFile);
const sha256 = crypto.createHash("sha256").update(data).digest("hex");
const { model } = await call(registry, "CreateModel", { model_id: "digits", description: "from Node" });
const { upload } = await call(artifacts, "CreateUpload", {
  files: [{ path: "model.onnx", size_bytes: data.length, sha256 }],
  request_id: crypto.randomUUID(),
});
await write(upload.id, data);
const { version } = await call(registry, "RegisterVersion", { model: "digits", upload: upload.id });
const deployed = await call(deployments, "Deploy", { version: "digits@1", endpoint: "digits", stage: "STAGE_STAGING" });
await ready(deployed.deployment.name);
const promoted = await call(deployments, "Promote", {
  deployment: "digits/staging",
  target_stage: "STAGE_PRODUCTION",
  criteria: [
    { metric: "prediction_count", comparison: "COMPARISON_GREATER_THAN_OR_EQUAL", bound: 0, min_sample: 1 },
  ],
});
const live = promoted.promoted ? await ready(promoted.deployment.name) : null;
let refused = "";
try {
  await call(registry, "CreateModel", { model_id: "Not A Name" });
} catch (error) {
  refused = grpc.status[error.code];
}
console.log(
  JSON.stringify({
    model: model.name,
    version: version.number,
    status: version.status,
    promoted: promoted.promoted,
    verdict: promoted.decision.verdict,
    stage: live && live.stage,
    refused,
  }),
);
process.exit(0);
