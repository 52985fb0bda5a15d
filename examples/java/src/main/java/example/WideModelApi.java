package example;

import io.modelregistry.v1.AnyType;
import io.modelregistry.v1.ArrayType;
import io.modelregistry.v1.BooleanType;
import io.modelregistry.v1.Column;
import io.modelregistry.v1.DataType;
import io.modelregistry.v1.DateType;
import io.modelregistry.v1.DoubleType;
import io.modelregistry.v1.FloatType;
import io.modelregistry.v1.IntegerType;
import io.modelregistry.v1.LongType;
import io.modelregistry.v1.MapType;
import io.modelregistry.v1.ModelApi;
import io.modelregistry.v1.ModelApiInput;
import io.modelregistry.v1.ModelApiOutput;
import io.modelregistry.v1.ParameterType;
import io.modelregistry.v1.StringType;
import io.modelregistry.v1.TabularFormat;
import io.modelregistry.v1.TabularType;
import io.modelregistry.v1.TimestampType;
import io.modelregistry.v1.UnsupportedType;
import java.util.List;

/** A Model API with a table of 200 columns, of all data types. */
final class WideModelApi {
  private static final List<String> NAMES =
      List.of("id", "größe", "città", "年齢", "возраст", "العمر", "🦉", "e\u0301");

  private static final DataType TEXT =
      DataType.newBuilder().setString(StringType.getDefaultInstance()).build();
  private static final DataType DOUBLE =
      DataType.newBuilder().setDouble(DoubleType.getDefaultInstance()).build();

  private static final List<DataType> TYPES =
      List.of(
          DataType.newBuilder().setAny(AnyType.getDefaultInstance()).build(),
          arrayOf(TEXT),
          DataType.newBuilder().setBoolean(BooleanType.getDefaultInstance()).build(),
          DataType.newBuilder().setDate(DateType.getDefaultInstance()).build(),
          DOUBLE,
          DataType.newBuilder().setFloat(FloatType.getDefaultInstance()).build(),
          DataType.newBuilder().setInteger(IntegerType.getDefaultInstance()).build(),
          DataType.newBuilder().setLong(LongType.getDefaultInstance()).build(),
          DataType.newBuilder()
              .setMap(MapType.newBuilder().setKeyType(TEXT).setValueType(arrayOf(DOUBLE)))
              .build(),
          TEXT,
          DataType.newBuilder().setTimestamp(TimestampType.getDefaultInstance()).build(),
          DataType.newBuilder()
              .setUnsupported(
                  UnsupportedType.newBuilder()
                      .setUnsupportedType("org.example.Point")
                      .putParams("srid", "4326")
                      .putParams("axes", "纬度, 经度"))
              .build());

  private WideModelApi() {}

  static ModelApi create() {
    return ModelApi.newBuilder()
        .addInputs(ModelApiInput.newBuilder().setTabular(measures()))
        .addInputs(
            ModelApiInput.newBuilder()
                .setParameter(ParameterType.newBuilder().setName("threshold").setDataType(DOUBLE)))
        .addInputs(
            ModelApiInput.newBuilder()
                .setUnsupported(UnsupportedType.newBuilder().setUnsupportedType("org.example.Image")))
        .addOutputs(
            ModelApiOutput.newBuilder()
                .setTabular(
                    TabularType.newBuilder()
                        .setName("scores")
                        .addColumns(
                            Column.newBuilder().setName("score").setRequired(false).setDataType(DOUBLE))))
        .addOutputs(
            ModelApiOutput.newBuilder()
                .setParameter(
                    ParameterType.newBuilder().setName("label").setRequired(true).setDataType(TEXT)))
        .build();
  }

  private static TabularType measures() {
    TabularType.Builder table =
        TabularType.newBuilder()
            .setName("Größe 📏")
            .setRequired(true)
            .setFormat(TabularFormat.TABULAR_FORMAT_SPARK);
    for (int i = 0; i < 200; i++) {
      Column.Builder column =
          Column.newBuilder()
              .setName(NAMES.get(i % NAMES.size()) + " " + i)
              .setDataType(TYPES.get(i % TYPES.size()));
      if (i % 3 != 0) {
        column.setRequired(i % 3 == 1);
      }
      table.addColumns(column);
    }
    return table.build();
  }

  private static DataType arrayOf(DataType itemType) {
    return DataType.newBuilder().setArray(ArrayType.newBuilder().setItemType(itemType)).build();
  }
}
