// Parameters of calls, held against the services' own models (botocore's `service-2.json`).

import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';

/** The newest model of a service in a folder of such models. */
export function serviceModel(folder, service) {
  const version = readdirSync(join(folder, service)).sort().at(-1);
  const file = join(folder, service, version, 'service-2.json');
  return JSON.parse(existsSync(file) ? readFileSync(file) : gunzipSync(readFileSync(`${file}.gz`)));
}

/** What is wrong with the parameters of a call, in words. Step Functions writes all names in PascalCase. */
export function faultsOfCall(model, operation, parameters) {
  const { input } = model.operations[operation];
  return faultsOf(model, input, parameters, operation);
}

const pascal = (name) => name[0].toUpperCase() + name.slice(1);
const isObject = (value) => value !== null && typeof value === 'object' && !Array.isArray(value);
const TYPES = {
  structure: isObject,
  map: isObject,
  list: Array.isArray,
  string: (value) => typeof value === 'string',
  boolean: (value) => typeof value === 'boolean',
  integer: Number.isInteger,
  long: Number.isInteger,
  float: Number.isFinite,
  double: Number.isFinite,
};

function faultsOf(model, reference, value, where) {
  const shape = model.shapes[reference.shape];
  const fits = TYPES[shape.type];
  if (!fits) return [`${where} is of type ${shape.type}, which these checks don't know`];
  if (!fits(value)) return [`${where} must be a ${shape.type}, and is ${JSON.stringify(value)}`];
  const size = { string: () => value.length, list: () => value.length, map: () => Object.keys(value).length }[shape.type];
  const amount = size ? size() : value;
  const faults = [];
  if (shape.min !== undefined && amount < shape.min) faults.push(`${where} is under ${shape.min}: ${JSON.stringify(value)}`);
  if (shape.max !== undefined && amount > shape.max) faults.push(`${where} is over ${shape.max}: ${JSON.stringify(value)}`);
  if (shape.enum && !shape.enum.includes(value)) faults.push(`${where} is none of ${shape.enum.length} known values: ${value}`);
  if (shape.pattern && !whole(shape.pattern).test(value)) faults.push(`${where} does not match ${shape.pattern}: ${value}`);
  const inner = {
    structure: () => ofStructure(model, shape, value, where),
    list: () => value.flatMap((item, k) => faultsOf(model, shape.member, item, `${where}[${k}]`)),
    map: () =>
      Object.entries(value).flatMap(([key, item]) => [
        ...faultsOf(model, shape.key, key, `${where}, key ${key}`),
        ...faultsOf(model, shape.value, item, `${where}.${key}`),
      ]),
  }[shape.type];
  return [...faults, ...(inner ? inner() : [])];
}

function ofStructure(model, shape, value, where) {
  const members = new Map(Object.entries(shape.members).map(([name, member]) => [pascal(name), member]));
  const faults = [];
  for (const name of shape.required ?? []) {
    // Whoever calls makes a token where none is given.
    if (!(pascal(name) in value) && !shape.members[name].idempotencyToken) faults.push(`${where} lacks ${pascal(name)}`);
  }
  if (shape.union && Object.keys(value).length !== 1) faults.push(`${where} must have exactly one member`);
  for (const [name, item] of Object.entries(value)) {
    if (members.has(name)) faults.push(...faultsOf(model, members.get(name), item, `${where}.${name}`));
    else faults.push(`${where} has ${name}, which the service does not know`);
  }
  return faults;
}

/** A pattern of a model, which means all of a text. Some need the mode in which others are no patterns. */
function whole(pattern) {
  try {
    return new RegExp(`^(?:${pattern})$`, 'us');
  } catch {
    return new RegExp(`^(?:${pattern})$`, 's');
  }
}
