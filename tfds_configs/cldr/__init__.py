"""The same thing said in two languages, from the Unicode CLDR that the package `babel` carries: a data set for translation."""
