//! Puts what the programs must know of the running kernel into their instructions.

use object::{
    Endianness, Object, ObjectSection, SectionFlags, elf::SHF_EXECINSTR, read::elf::ElfFile64,
};
use zc_profiler_ebpf::{KernelLayout, operand};

/// Bytes of an instruction: code, registers, offset (16 bits), immediate operand (32 bits). One that
/// sets a register to 64 bits takes two.
const INSTRUCTION: usize = 8;
/// `BPF_ALU64 | BPF_MOV | BPF_K`, which repeats the sign in the upper half; what stays clears that.
const SET: u8 = 0xb7;
/// `BPF_ALU | BPF_MOV | BPF_K`.
const SET_WORD: u8 = 0xb4;
/// `BPF_LD | BPF_DW | BPF_IMM`.
const SET_LONG: u8 = 0x18;
/// `BPF_LDX | BPF_MEM`, and the bits that are neither in `BPF_SIZE`.
const LOAD: u8 = 0x61;
const SIZE: u8 = 0x18;

/// The programs' object with a layout in place of its operands.
pub fn fill(object: &[u8], layout: &KernelLayout) -> Vec<u8> {
    let mut filled = object.to_vec();
    let object: ElfFile64<'_, Endianness> =
        ElfFile64::parse(object).expect("the build script has read it too");
    for section in object.sections() {
        let SectionFlags::Elf { sh_flags } = section.flags() else {
            continue;
        };
        if let Some((start, length)) = section.file_range()
            && sh_flags & u64::from(SHF_EXECINSTR) != 0
        {
            let [start, length] =
                [start, length].map(|bytes| usize::try_from(bytes).expect("it is in memory"));
            fill_code(&mut filled[start..][..length], layout.words());
        }
    }
    filled
}

fn fill_code(code: &mut [u8], words: &[u32]) {
    let word = |place: i32| words.get(usize::try_from(place).ok()?).copied();
    let mut rest = code;
    while let Some((instruction, next)) = rest.split_first_chunk_mut::<INSTRUCTION>() {
        let [code, _, o0, o1, i0, i1, i2, i3] = *instruction;
        let in_offset = i16::from_le_bytes([o0, o1]).wrapping_sub(operand::OFFSET);
        let in_immediate = i32::from_le_bytes([i0, i1, i2, i3]).wrapping_sub(operand::IMMEDIATE);
        match (code, word(in_immediate)) {
            (SET, Some(value)) => {
                instruction[0] = SET_WORD;
                instruction[4..].copy_from_slice(&value.to_le_bytes());
            }
            (SET_LONG, Some(low)) => {
                let high = word(in_immediate + 1).unwrap_or_default();
                instruction[4..].copy_from_slice(&low.to_le_bytes());
                next[4..INSTRUCTION].copy_from_slice(&high.to_le_bytes());
            }
            _ if code & !SIZE == LOAD => {
                if let Some(offset) = word(in_offset.into()) {
                    // Out of any structure if it is none or too large, so the verifier refuses it.
                    let offset = i16::try_from(offset).unwrap_or(i16::MAX);
                    instruction[2..4].copy_from_slice(&offset.to_le_bytes());
                }
            }
            _ => {}
        }
        rest = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probes::attach::OBJECT;

    const fn instruction(code: u8, offset: i16, immediate: i32) -> [u8; INSTRUCTION] {
        let ([o0, o1], [i0, i1, i2, i3]) = (offset.to_le_bytes(), immediate.to_le_bytes());
        [code, 0x21, o0, o1, i0, i1, i2, i3]
    }

    #[test]
    fn each_kind_of_operand_takes_its_field() {
        let layout = KernelLayout {
            task_pid: 0x1234,
            task_tgid: u32::MAX,
            preempt_count: 0xffff_8881_0203_0405,
            ..KernelLayout::UNKNOWN
        };
        let place = |field: usize| u16::try_from(field / 4).expect("it is small");
        let pid = place(std::mem::offset_of!(KernelLayout, task_pid));
        let tgid = place(std::mem::offset_of!(KernelLayout, task_tgid));
        let count = place(std::mem::offset_of!(KernelLayout, preempt_count));
        let rows = [
            // One byte, two, four and eight.
            ((0x71, operand::offset(pid), 5), (0x71, 0x1234, 5)),
            ((0x69, operand::offset(pid), 0), (0x69, 0x1234, 0)),
            ((0x61, operand::offset(pid), 0), (0x61, 0x1234, 0)),
            ((0x79, operand::offset(tgid), 0), (0x79, i16::MAX, 0)),
            ((SET, 0, operand::immediate(pid)), (SET_WORD, 0, 0x1234)),
            ((SET, 0, operand::immediate(tgid)), (SET_WORD, 0, -1)),
            (
                (SET_LONG, 0, operand::immediate(count)),
                (SET_LONG, 0, 0x0203_0405),
            ),
            ((0, 0, 0), (0, 0, 0xffff_8881_u32.cast_signed())),
            // What is no operand: other loads, numbers, and a store.
            ((0x61, 0x1234, 7), (0x61, 0x1234, 7)),
            ((SET, 0, 12), (SET, 0, 12)),
            (
                (0x63, operand::offset(pid), 0),
                (0x63, operand::offset(pid), 0),
            ),
        ];
        let code = |row: &dyn Fn(usize) -> (u8, i16, i32)| -> Vec<u8> {
            (0..rows.len())
                .map(row)
                .flat_map(|(code, offset, immediate)| instruction(code, offset, immediate))
                .collect()
        };
        let mut filled = code(&|index| rows[index].0);
        fill_code(&mut filled, layout.words());
        assert_eq!(filled, code(&|index| rows[index].1));
    }

    #[test]
    fn none_is_left_in_the_programs() {
        let once = fill(OBJECT, &KernelLayout::UNKNOWN);
        assert_ne!(once, OBJECT, "there are operands");
        let other = KernelLayout {
            task_pid: 1,
            preemptible: 1,
            preempt_count: 1,
            ..KernelLayout::UNKNOWN
        };
        assert!(fill(&once, &other) == once, "an operand is left");
    }
}
