/* The linked stage program as read-only data of the extension. */
    .section .rodata
    .balign 16
    .globl bulkhead_stage_start
    .hidden bulkhead_stage_start
    .globl bulkhead_stage_end
    .hidden bulkhead_stage_end
bulkhead_stage_start:
    .incbin BULKHEAD_STAGE_PATH
bulkhead_stage_end:
    .byte 0
    .section .note.GNU-stack,"",%progbits
