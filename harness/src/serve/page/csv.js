// Tables as text.

// Lines of CSV (RFC 4180), numbers as numbers, empty cells as null.
export function parseCsv(words) {
  const lines = [[""]];
  let isQuoted = false;
  for (let i = 0; i < words.length; i += 1) {
    const sign = words[i];
    const line = lines.at(-1);
    if (isQuoted && sign === '"' && words[i + 1] === '"') line[line.length - 1] += words[i += 1];
    else if (sign === '"') isQuoted = !isQuoted;
    else if (sign === "," && !isQuoted) line.push("");
    else if (sign === "\n" && !isQuoted) lines.push([""]);
    else if (sign !== "\r" || isQuoted) line[line.length - 1] += sign;
  }
  const kept = lines.filter((line) => line.length > 1 || line[0]);
  return kept.map((line, i) => (i === 0 ? line : line.map(valueOf)));
}

// A cell as a number where it is one.
export const valueOf = (words) => {
  if (words === "") return null;
  return typeof words === "string" && Number.isFinite(Number(words)) ? Number(words) : words;
};
