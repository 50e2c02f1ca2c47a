// Gives the precompiled header of the test programs a target of its own.
