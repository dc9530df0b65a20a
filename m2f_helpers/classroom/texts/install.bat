@echo off
rem Installs the tutorial beside this file, without network and without administrator. Needs Python {pythons}.
cd /d "%~dp0" || exit /b 1
set "FOUND="
set "FITS=import sys; sys.exit('%%d.%%d' %% sys.version_info[:2] not in sys.argv)"
for %%v in ({versions}) do if not defined FOUND py -%%v -c "%FITS%" %%v >nul 2>nul && set "FOUND=py -%%v"
if not defined FOUND python -c "%FITS%" {versions} >nul 2>nul && set "FOUND=python"
if not defined FOUND (
  echo Python {pythons} is needed and was not found: install it and call install.bat again.
  goto failed
)
%FOUND% -m venv venv || goto failed
set "PIP=venv\Scripts\python.exe -m pip install --quiet --no-index --find-links wheels"
%PIP% "m2f-helpers[fast]" jupyterlab || goto failed
echo Ready. Start with: venv\Scripts\jupyter lab notebooks
pause
exit /b 0
:failed
pause
exit /b 1
