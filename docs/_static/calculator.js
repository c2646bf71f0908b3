// The calculator of docs/calculator.rst: the units of docs/cost.rst.
'use strict';

const SECONDS_A_MONTH = 730 * 3600;
// What a partition gives in a second.
const PARTITION = {writes: 1000, reads: 3000};

// Units and calls a second of requests a second; the size in KB.
function sessionUnits(given) {
  const w = Math.ceil(given.size);
  const r = Math.ceil(given.size / 4);
  return {
    writes: w * (2 * given.exclusive + given.optimistic + given.touched
      + given.created + 5 * given.regenerated),
    reads: r * (given.read_only + given.optimistic),
    calls: 2 * given.exclusive + given.read_only + given.touched
      + 2 * given.optimistic + given.created + 2 * given.regenerated,
  };
}

function sessionCost(given) {
  const units = sessionUnits(given);
  const gigabytes = given.size * given.sessions / 1e6;
  return {
    ...units,
    partitions: Math.max(1, Math.ceil(units.writes / PARTITION.writes),
      Math.ceil(units.reads / PARTITION.reads)),
    month: SECONDS_A_MONTH * (units.writes * given.write_price
      + units.reads * given.read_price) / 1e6
      + gigabytes * given.storage_price,
  };
}

function calculate(form) {
  const inputs = [...form.querySelectorAll('input')];
  const given = Object.fromEntries(
    inputs.map((input) => [input.name, input.valueAsNumber]));
  const isRight = form.checkValidity()
    && !Object.values(given).some(Number.isNaN);
  const found = isRight ? sessionCost(given) : {};
  for (const output of form.querySelectorAll('output')) {
    const value = found[output.name];
    const digits = output.name === 'month'
      ? {minimumFractionDigits: 2, maximumFractionDigits: 2}
      : {maximumFractionDigits: 1};
    output.value = value === undefined
      ? '–' : value.toLocaleString('en', digits);
  }
}

document.addEventListener('DOMContentLoaded', () => {
  const form = document.getElementById('calculator');
  if (form) {
    form.addEventListener('input', () => calculate(form));
    form.addEventListener('submit', (event) => event.preventDefault());
    calculate(form);
  }
});
