"""The operations on vectors by LLVM's vector instructions."""
