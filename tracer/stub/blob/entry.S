// The way into the stub and out of it, and its system calls. Offsets into Area are layout.h's, proven by
// the static_asserts in stub.cpp. On entry: rax the call's number, r11 the slot's `slow`; everything else
// is the application's. The system call ABI lets rcx, r11 and the arithmetic flags be lost, nothing else.
#define A_RAX 0
#define A_RDI 8
#define A_RSI 16
#define A_RDX 24
#define A_R10 32
#define A_R8 40
#define A_R9 48
#define A_RSP 56
#define A_RBX 64
#define A_RBP 72
#define A_R12 80
#define A_R13 88
#define A_R14 96
#define A_R15 104
#define A_SLOT 112
#define A_RESULT 120
#define A_STAGE 128
#define A_TRAP_KIND 132
#define AREA_SIZE 8192
#define AREAS_SHIFT 25
#define BOOT_TABLE 0x1000
  .section .head, "ax"
  .globl stub_head
stub_head:
  .quad 0x6275747365707573
stub_area_tag:
  .quad 0
  .long 3
  .long stub_end - stub_head
  .long stub_enter - stub_head
  .long stub_entered - stub_head
  .long stub_native_insn - stub_head
  .long stub_native_recorded - stub_head
  .long stub_traced_back - stub_head
  .long stub_traced_recorded - stub_head
  .long stub_leaving - stub_head
  .long stub_leave_end - stub_head
  .long stub_traced_entry - stub_head
  .long stub_traced_result - stub_head
  .long stub_first - stub_head
  .long stub_first_end - stub_head
  .long stub_first_stop - stub_first
  .long stub_maps_stop - stub_head
  .long stub_calls - stub_head
  .long 0

  .text
  .globl stub_enter
stub_enter:
  rdgsbase %rcx
  shr $AREAS_SHIFT, %rcx
  cmp %rcx, stub_area_tag(%rip)
  jne 1f
  rdgsbase %rcx
  mov %rax, A_RAX(%rcx)
  mov %rdi, A_RDI(%rcx)
  mov %rsi, A_RSI(%rcx)
  mov %rdx, A_RDX(%rcx)
  mov %r10, A_R10(%rcx)
  mov %r8, A_R8(%rcx)
  mov %r9, A_R9(%rcx)
  mov %rsp, A_RSP(%rcx)
  mov %rbx, A_RBX(%rcx)
  mov %rbp, A_RBP(%rcx)
  mov %r12, A_R12(%rcx)
  mov %r13, A_R13(%rcx)
  mov %r14, A_R14(%rcx)
  mov %r15, A_R15(%rcx)
  mov %r11, A_SLOT(%rcx)
  movl $1, A_STAGE(%rcx)
stub_entered:
  lea AREA_SIZE(%rcx), %rsp
  mov %rcx, %rbx
  mov %rcx, %rdi
  call stub_main
  mov %rbx, %rcx
  mov A_SLOT(%rcx), %r11
  test %eax, %eax
  mov A_RAX(%rcx), %rax
  jne 2f
  mov A_RESULT(%rcx), %rax
  add $2, %r11
2:
  mov A_RDI(%rcx), %rdi
  mov A_RSI(%rcx), %rsi
  mov A_RDX(%rcx), %rdx
  mov A_R10(%rcx), %r10
  mov A_R8(%rcx), %r8
  mov A_R9(%rcx), %r9
  mov A_RBX(%rcx), %rbx
  mov A_RSP(%rcx), %rsp
stub_leaving:
  movl $0, A_STAGE(%rcx)
1:
  jmp *%r11
stub_leave_end:

// void stub_native(Area*): the application's call with its own arguments. The result and the stage are
// in the Area when it returns.
  .globl stub_native
stub_native:
  push %rbx
  mov %rdi, %rbx
  mov A_RAX(%rbx), %rax
  mov A_RSI(%rbx), %rsi
  mov A_RDX(%rbx), %rdx
  mov A_R10(%rbx), %r10
  mov A_R8(%rbx), %r8
  mov A_R9(%rbx), %r9
  mov A_RDI(%rbx), %rdi
stub_native_insn:
  syscall
  mov %rax, A_RESULT(%rbx)
  movl $2, A_STAGE(%rbx)
stub_native_recorded:
  pop %rbx
  ret

// void stub_traced(Area*), stub_report(Area*): the same call, which the supervisor decides; with
// stub_report it has been made, and A_RESULT is what came.
  .globl stub_traced, stub_report
stub_traced:
  push %rbx
  mov %rdi, %rbx
  movl $0, A_TRAP_KIND(%rbx)
  mov A_RAX(%rbx), %rax
  mov A_RSI(%rbx), %rsi
  mov A_RDX(%rbx), %rdx
  mov A_R10(%rbx), %r10
  mov A_R8(%rbx), %r8
  mov A_R9(%rbx), %r9
  mov A_RDI(%rbx), %rdi
  call stub_traced_entry
  jmp stub_traced_back
stub_report:
  push %rbx
  mov %rdi, %rbx
  movl $1, A_TRAP_KIND(%rbx)
  mov A_RAX(%rbx), %rax
  mov A_RSI(%rbx), %rsi
  mov A_RDX(%rbx), %rdx
  mov A_R10(%rbx), %r10
  mov A_R8(%rbx), %r8
  mov A_R9(%rbx), %r9
  mov A_RDI(%rbx), %rdi
  call stub_traced_result
stub_traced_back:
  mov %rax, A_RESULT(%rbx)
  movl $3, A_STAGE(%rbx)
stub_traced_recorded:
  pop %rbx
  ret

// Makes mappings (layout.h, BootMap) and stops. Before a program runs this is copied over its first instructions:
// all registers but rsp are 0 then.
stub_first:
  lea -BOOT_TABLE(%rsp), %rbx
  mov %rbx, %rbp
1:
  mov 8(%rbp), %rsi
  test %rsi, %rsi
  je 2f
  mov (%rbp), %rdi
  mov 16(%rbp), %edx
  mov 20(%rbp), %r10d
  mov $-1, %r8
  xor %r9d, %r9d
  mov $9, %eax  // mmap
  syscall
  mov %rax, 24(%rbp)
  add $32, %rbp
  jmp 1b
2:
  mov $-1, %rdi
  mov $3, %eax  // close
  test %r15, %r15
  jne 3f
stub_first_stop:
  syscall
3:
  jmp *%r15  // in the arena: to stub_maps_stop
stub_first_end:

// Makes calls (layout.h, ArenaCall) and stops.
stub_calls:
  mov (%rbp), %rax
  test %rax, %rax
  js 2f
  mov 8(%rbp), %rdi
  mov 16(%rbp), %rsi
  mov 24(%rbp), %rdx
  mov 32(%rbp), %r10
  mov 40(%rbp), %r8
  mov 48(%rbp), %r9
  syscall
  mov %rax, 56(%rbp)
  add $64, %rbp
  jmp stub_calls
2:
  mov $-1, %rdi
  mov $3, %eax  // close
  jmp *%r15     // to stub_maps_stop

  .section .traced, "ax"
  .balign 16
stub_traced_entry:
  syscall
  ret
  .balign 16
stub_traced_result:
  syscall
  ret

  .balign 16
stub_maps_stop:
  syscall
  ud2

  .section .note.GNU-stack, "", @progbits
