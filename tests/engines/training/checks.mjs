// What is looked up in a definition, as no execution here shows it.

import { statesOf } from './execution.mjs';
import { PASSING, VALUES } from './services.mjs';

/** Bytes that the definition may have without spaces, as part of the template. */
const MOST_BYTES = 16_384;

/** The faults of a definition, given as it stands in its file and with its placeholders filled in. */
export function faultsOfText(text, { definition, missing }) {
  const used = new Set([...text.matchAll(/\$\{(\w+)\}/g)].map(([, name]) => name));
  const faults = [...missing.map((name) => `\${${name}} is not agreed with the template`)];
  faults.push(
    ...Object.keys(VALUES)
      .filter((name) => !used.has(name))
      .map((name) => `\${${name}} is not used`),
  );
  const bytes = Buffer.byteLength(JSON.stringify(JSON.parse(text)));
  if (bytes > MOST_BYTES) faults.push(`${bytes} bytes, over ${MOST_BYTES}`);
  if (!definition.TimeoutSeconds) faults.push('the machine has no TimeoutSeconds');
  for (const [name, state] of statesOf(definition)) if (state.Type === 'Task') faults.push(...faultsOfTask(name, state));
  return faults;
}

function faultsOfTask(name, state) {
  const faults = [];
  if (!state.TimeoutSeconds) faults.push(`${name} has no TimeoutSeconds`);
  const retried = (state.Retry ?? []).flatMap((retrier) => retrier.ErrorEquals);
  const service = state.Resource.replace('arn:aws:states:::', '');
  for (const error of PASSING[service] ?? []) if (!retried.includes(error)) faults.push(`${name} does not retry ${error}`);
  for (const { JitterStrategy, BackoffRate, ErrorEquals } of state.Retry ?? []) {
    if (JitterStrategy !== 'FULL') faults.push(`${name} retries ${ErrorEquals} without jitter`);
    if (!(BackoffRate > 1)) faults.push(`${name} retries ${ErrorEquals} without back-off`);
  }
  return faults;
}
