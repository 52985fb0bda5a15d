import type { MessageInitShape } from "@bufbuild/protobuf";

import { type DataTypeSchema, type ModelApiSchema, TabularFormat } from "./gen/modelregistry/v1/model_api_pb.js";

type DataType = MessageInitShape<typeof DataTypeSchema>;

const names = ["id", "größe", "città", "年齢", "возраст", "العمر", "🦉", "e\u0301"];
const required = [undefined, true, false];
const text: DataType = { type: { case: "string", value: {} } };
const double: DataType = { type: { case: "double", value: {} } };
const types: DataType[] = [
  { type: { case: "any", value: {} } },
  { type: { case: "array", value: { itemType: text } } },
  { type: { case: "boolean", value: {} } },
  { type: { case: "date", value: {} } },
  double,
  { type: { case: "float", value: {} } },
  { type: { case: "integer", value: {} } },
  { type: { case: "long", value: {} } },
  {
    type: {
      case: "map",
      value: { keyType: text, valueType: { type: { case: "array", value: { itemType: double } } } },
    },
  },
  text,
  { type: { case: "timestamp", value: {} } },
  {
    type: {
      case: "unsupported",
      value: { unsupportedType: "org.example.Point", params: { srid: "4326", axes: "纬度, 经度" } },
    },
  },
];

/** A table of 200 columns, of all data types. */
export const wideModelApi: MessageInitShape<typeof ModelApiSchema> = {
  inputs: [
    {
      type: {
        case: "tabular",
        value: {
          name: "Größe 📏",
          required: true,
          format: TabularFormat.SPARK,
          columns: Array.from({ length: 200 }, (_, i) => ({
            name: `${names[i % names.length]} ${i}`,
            required: required[i % required.length],
            dataType: types[i % types.length],
          })),
        },
      },
    },
    { type: { case: "parameter", value: { name: "threshold", dataType: double } } },
    { type: { case: "unsupported", value: { unsupportedType: "org.example.Image" } } },
  ],
  outputs: [
    {
      type: {
        case: "tabular",
        value: { name: "scores", columns: [{ name: "score", required: false, dataType: double }] },
      },
    },
    { type: { case: "parameter", value: { name: "label", required: true, dataType: text } } },
  ],
};
