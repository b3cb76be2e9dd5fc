//! The ISA class of the CPU (proof format, §3): what, besides the runtime's build, decides which
//! kernels run and so which bytes come out.

/// Linux's names of the CPU flags beyond the psABI levels that select other kernels.
const EXTRAS: [&str; 7] = ["amx_bf16", "amx_int8", "amx_tile", "avx512_bf16", "avx512_fp16", "avx512_vnni", "avx_vnni"];

/// Flags that each x86-64 psABI level adds, by Linux's names (`pni` is SSE3, `abm` holds LZCNT).
const LEVELS: [(&str, &[&str]); 3] = [
    ("x86-64-v2", &["cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"]),
    ("x86-64-v3", &["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"]),
    ("x86-64-v4", &["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"]),
];

/// This machine's class, e.g. `amd/x86-64-v4+avx512_bf16+avx512_vnni`.
pub(crate) fn isa_class() -> String {
    class_of(std::env::consts::ARCH, &std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default())
}

fn class_of(arch: &str, cpuinfo: &str) -> String {
    let field = |name: &str| {
        cpuinfo.lines().find_map(|l| {
            let (key, value) = l.split_once(':')?;
            (key.trim() == name).then(|| value.trim())
        })
    };
    if arch != "x86_64" {
        return format!("{}/{arch}", field("CPU implementer").unwrap_or("unknown"));
    }
    let vendor = match field("vendor_id") {
        Some("AuthenticAMD") => "amd",
        Some("GenuineIntel") => "intel",
        _ => "unknown",
    };
    let flags: std::collections::HashSet<&str> = field("flags").unwrap_or_default().split_whitespace().collect();
    let level = LEVELS
        .iter()
        .take_while(|(_, needs)| needs.iter().all(|f| flags.contains(f)))
        .last()
        .map_or("x86-64", |(name, _)| name);
    let extras: String = EXTRAS.iter().filter(|f| flags.contains(*f)).map(|f| format!("+{f}")).collect();
    format!("{vendor}/{level}{extras}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_by_flags() {
        let v2 = "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3";
        let v3 = "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave";
        let v4 = "avx512f avx512bw avx512cd avx512dq avx512vl avx512_vnni avx512_bf16";
        let info =
            |vendor: &str, flags: &str| format!("processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: fpu {flags}\n");
        let class = |vendor, flags: &str| class_of("x86_64", &info(vendor, flags));
        assert_eq!(class("AuthenticAMD", &format!("{v2} {v3} {v4}")), "amd/x86-64-v4+avx512_bf16+avx512_vnni");
        assert_eq!(class("GenuineIntel", &format!("{v2} {v3} avx_vnni")), "intel/x86-64-v3+avx_vnni");
        assert_eq!(class("GenuineIntel", &format!("{v3} {v4}")), "intel/x86-64+avx512_bf16+avx512_vnni");
        assert_eq!(class_of("x86_64", ""), "unknown/x86-64");
        assert!(isa_class().contains('/'));
    }
}
