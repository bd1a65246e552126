// The request as JSON, to read and to write, and as a call from curl and Python.

import { ADDRESS, clearFailure, mark, shellCall, token } from "./api.js";
import { byId, isObject } from "./html.js";
import { current, replace } from "./request.js";

const asJson = (indent) => JSON.stringify(current(), null, indent);

export const isJsonOpen = () => !byId("json-view").hidden;

export function startJsonView() {
  byId("json").addEventListener("change", readJson);
  for (const button of document.querySelectorAll("[data-copies]")) {
    // Browsers allow clipboard access on https and localhost only.
    button.hidden = !navigator.clipboard;
    button.addEventListener("click", () =>
      navigator.clipboard.writeText(byId(button.dataset.copies).textContent),
    );
  }
  for (const choice of document.querySelectorAll("input[name=view]")) {
    choice.addEventListener("change", () => {
      // The form cannot show a text that is not a request yet.
      const view = choice.value === "form" && !readJson() ? "json" : choice.value;
      document.querySelector(`input[name=view][value=${view}]`).checked = true;
      byId("form-view").hidden = view !== "form";
      byId("json-view").hidden = view !== "json";
    });
  }
}

/** Replaces the request with the text if it is valid, or marks the error; returns whether it is. */
export function readJson() {
  clearFailure();
  try {
    const request = JSON.parse(byId("json").value || "{}");
    if (!isObject(request)) throw new SyntaxError('Expected a JSON object, such as {"k": 10}.');
    if (JSON.stringify(request) !== asJson()) replace(request);
    return true;
  } catch (error) {
    mark(byId("json"), `This is not valid JSON: ${error.message} Nothing was sent.`);
    return false;
  }
}

export function drawJson() {
  byId("json").value = asJson(2);
  const python = [
    "import json",
    ...(token() ? ["import os"] : []),
    "from serving import client",
    "",
    `request = json.loads(${JSON.stringify(asJson())})`,
    `with client.Client("${ADDRESS}"${token() && ', token=os.environ["TFREC_TOKEN"]'}) as tfrec:`,
    "    answer = tfrec.recommend(**request)",
  ].join("\n");
  byId("curl").textContent = shellCall(asJson(), token());
  byId("python").textContent = python;
}
