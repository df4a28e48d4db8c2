// The stub, as the supervisor copies it into processes.
  .section .rodata
  .balign 16
  .globl supervise_stub_code
supervise_stub_code:
  .incbin STUB_BINARY
  .globl supervise_stub_code_end
supervise_stub_code_end:
  .section .note.GNU-stack, "", @progbits
