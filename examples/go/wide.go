package main

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	registry "example.com/modelregistry-client/modelregistry/v1"
)

// wideModelAPI has a table of 200 columns, of all data types.
func wideModelAPI() *registry.ModelApi {
	names := []string{"id", "größe", "città", "年齢", "возраст", "العمر", "🦉", "e\u0301"}
	required := []*bool{nil, proto.Bool(true), proto.Bool(false)}
	types := dataTypes()
	columns := make([]*registry.Column, 200)
	for i := range columns {
		columns[i] = &registry.Column{
			Name:     fmt.Sprintf("%s %d", names[i%len(names)], i),
			Required: required[i%len(required)],
			DataType: types[i%len(types)],
		}
	}
	return &registry.ModelApi{
		Inputs: []*registry.ModelApiInput{
			{Type: &registry.ModelApiInput_Tabular{Tabular: &registry.TabularType{
				Name:     "Größe 📏",
				Required: proto.Bool(true),
				Columns:  columns,
				Format:   registry.TabularFormat_TABULAR_FORMAT_SPARK,
			}}},
			{Type: &registry.ModelApiInput_Parameter{Parameter: &registry.ParameterType{
				Name:     "threshold",
				DataType: double(),
			}}},
			{Type: &registry.ModelApiInput_Unsupported{Unsupported: &registry.UnsupportedType{
				UnsupportedType: "org.example.Image",
			}}},
		},
		Outputs: []*registry.ModelApiOutput{
			{Type: &registry.ModelApiOutput_Tabular{Tabular: &registry.TabularType{
				Name:    "scores",
				Columns: []*registry.Column{{Name: "score", Required: proto.Bool(false), DataType: double()}},
			}}},
			{Type: &registry.ModelApiOutput_Parameter{Parameter: &registry.ParameterType{
				Name:     "label",
				Required: proto.Bool(true),
				DataType: text(),
			}}},
		},
	}
}

func dataTypes() []*registry.DataType {
	doubles := &registry.DataType{Type: &registry.DataType_Array{Array: &registry.ArrayType{ItemType: double()}}}
	return []*registry.DataType{
		{Type: &registry.DataType_Any{Any: &registry.AnyType{}}},
		{Type: &registry.DataType_Array{Array: &registry.ArrayType{ItemType: text()}}},
		{Type: &registry.DataType_Boolean{Boolean: &registry.BooleanType{}}},
		{Type: &registry.DataType_Date{Date: &registry.DateType{}}},
		double(),
		{Type: &registry.DataType_Float{Float: &registry.FloatType{}}},
		{Type: &registry.DataType_Integer{Integer: &registry.IntegerType{}}},
		{Type: &registry.DataType_Long{Long: &registry.LongType{}}},
		{Type: &registry.DataType_Map{Map: &registry.MapType{KeyType: text(), ValueType: doubles}}},
		text(),
		{Type: &registry.DataType_Timestamp{Timestamp: &registry.TimestampType{}}},
		{Type: &registry.DataType_Unsupported{Unsupported: &registry.UnsupportedType{
			UnsupportedType: "org.example.Point",
			Params:          map[string]string{"srid": "4326", "axes": "纬度, 经度"},
		}}},
	}
}

func double() *registry.DataType {
	return &registry.DataType{Type: &registry.DataType_Double{Double: &registry.DoubleType{}}}
}

func text() *registry.DataType {
	return &registry.DataType{Type: &registry.DataType_String_{String_: &registry.StringType{}}}
}
