"""Star, galaxy or quasar: the sets, the protocol and the methods of the study ``margformer``."""
