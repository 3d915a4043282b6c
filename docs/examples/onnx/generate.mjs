// Greedy search with transformers.js, from a folder of save_onnx on disk.
//
// node generate.mjs FOLDER [fp32|q8] < ROWS      ROWS: one JSON object a line, {"text": …} or {"ids": […]},
//                                                with "max_new_tokens" if the folder's settings should not count
// prints one JSON object a line: {"ids": […], "text": …}
//
// npm install @huggingface/transformers          NODE_MODULES: the folder it is in, if not beside this file
import { createRequire } from 'node:module';
import path from 'node:path';
import readline from 'node:readline';
import { pathToFileURL } from 'node:url';

const place = path.resolve(process.env.NODE_MODULES ?? 'node_modules');
const entry = createRequire(path.join(place, 'any.js')).resolve('@huggingface/transformers');
const { env, AutoModelForSeq2SeqLM, AutoTokenizer, Tensor } = await import(pathToFileURL(entry));

const [folder, dtype = 'fp32'] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = path.dirname(path.resolve(folder));
const name = path.basename(path.resolve(folder));
const model = await AutoModelForSeq2SeqLM.from_pretrained(name, { dtype });
let tokenizer = null;

function fromIds(ids) {
    const shape = [1, ids.length];
    const attention_mask = new Tensor('int64', new BigInt64Array(ids.length).fill(1n), shape);
    return { input_ids: new Tensor('int64', BigInt64Array.from(ids, BigInt), shape), attention_mask };
}

for await (const line of readline.createInterface({ input: process.stdin })) {
    const { text, ids, ...options } = JSON.parse(line);
    if (text !== undefined) tokenizer ??= await AutoTokenizer.from_pretrained(name);
    const inputs = text === undefined ? fromIds(ids) : tokenizer(text);
    const found = await model.generate({ ...inputs, do_sample: false, num_beams: 1, ...options });
    const row = { ids: found.tolist()[0].map(Number) };
    if (text !== undefined) row.text = tokenizer.decode(row.ids, { skip_special_tokens: true });
    console.log(JSON.stringify(row));
}
