//! The `grey` executable: a thin shell around the library.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let program = match std::env::current_exe() {
        Ok(path) => path,
        Err(e) => {
            eprintln!("error: cannot find this program's own file: {e}");
            return ExitCode::from(grey::EXIT_UNEXPECTED);
        }
    };
    let host_command = grey::HostCommand { program, args: vec!["engine-host".into()] };
    let context = grey::HostContext { host_command, python_prefix: None };
    ExitCode::from(grey::main_from(std::env::args_os().collect(), context))
}
