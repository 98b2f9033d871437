// Package lint is the house rules as tests. A rule looks at one package and
// returns findings; TestHouse runs every rule over the module, TestRulesBite
// runs each over a sample under testdata that breaks it, so that a rule which
// can no longer fail is noticed.
//
// Comments that the rules read:
//
//	//spindle:hot            this function is held to the rules of the data path
//	//spindle:ordered WHY    the order of this map range does not matter, because
//	//spindle:edge WHY       this function or line is where the outside world enters
//
// Threading: none. Memory: none; there is nothing here but tests.
package lint
